"""What is wrong with a data tree, and what to do about it. Structure only; `decode_all` looks into the images."""

import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qprompt.data import coop_pickle, downloads
from qprompt.data.fewshot import missing_files
from qprompt.data.item_list import read_item_list
from qprompt.data.items import Split, class_names
from qprompt.data.layouts import Layout
from qprompt.data.own import read_image_folder
from qprompt.data.readers import folders_in, images_in
from qprompt.data.split_file import read_split
from qprompt.errors import UserError


class Finding(NamedTuple):
    """One thing found. Level "error": runs fail or their numbers mean nothing; "warning": good to know."""

    level: str
    code: str
    message: str
    advice: str


def error(code: str, message: str, advice: str) -> Finding:
    return Finding("error", code, message, advice)


def warning(code: str, message: str, advice: str) -> Finding:
    return Finding("warning", code, message, advice)


def check_layout(layout: Layout, root: Path) -> tuple[list[Finding], Split | None]:
    """Findings on the tree of one data set below `root`, and its whole split if that can be read."""
    folder = root / layout.folder
    if not folder.is_dir():
        return [_no_folder(layout, root)], None
    findings = list(_image_folders(layout, root))
    if any(f.level == "error" for f in findings):
        return findings, None
    split_file = layout.split_file(root)
    try:
        if split_file and split_file.is_file():
            split = read_split(split_file)
        else:
            missing = [name for name in layout.needs if not (folder / name).exists()]
            findings += [_missing(layout, name) for name in missing]
            if split_file:
                text = f"{split_file} is not there: the first run draws a split of its own, unlike the published one."
                findings.append(warning("no-split", text, f"Get it from {downloads.SPLITS}."))
            if missing:
                return findings, None
            split = layout.read_official(folder, random.Random(0))
    except UserError as reason:
        findings.append(error("unreadable-split", str(reason), "Fetch that file again."))
        return findings, None
    findings += check_split(split, folder / layout.images)
    findings += _sizes(layout, split, fixed=not split_file or split_file.is_file())
    findings += _caches(folder, split, with_val=not layout.test_is_val)
    if not layout.test_only and not os.access(folder, os.W_OK):
        text = f"{folder} cannot be written to: draws are not kept (they come out the same for a seed)."
        findings.append(warning("read-only", text, "Nothing to do, if that is meant."))
    return findings, split


def _no_folder(layout: Layout, root: Path) -> Finding:
    found = downloads.lookalikes(layout, folders_in(root))
    if found:
        text = f"{root} has a folder {found[0]!r}, but no {layout.folder!r}."
        return error("folder-name", text, f"Rename it: mv {root / found[0]} {root / layout.folder}")
    advice = f"'qprompt prepare-data {layout.name} {root}' unpacks it or says where to get it."
    return error("no-folder", f"{root / layout.folder} is not there.", advice)


def _image_folders(layout: Layout, root: Path) -> Iterator[Finding]:
    """Each folder that should hold images, directly or by class, is there and does."""
    folder = root / layout.folder
    for name in layout.image_folders:
        path = folder / name
        twice = _has_images(path / path.name)
        if _has_images(path) and not twice:
            if name == "images/val" and not folders_in(path):
                text = f"{path} holds loose images, not one folder a class: the test set would be empty."
                yield error("val-not-in-class-folders", text, f"Run 'qprompt prepare-data ImageNet {root}'.")
            continue
        nested = _nested(folder, path.name, path)
        archives = [n for n in downloads.archive_names(layout.name) for at in (root, folder) if (at / n).is_file()]
        tars = path.is_dir() and [file for file in os.listdir(path) if file.endswith(".tar")]
        if nested:
            text = f"the images lie in {nested}, not in {path}."
            yield error("wrong-nesting", text, f"Move it there: mv {nested} {path} (rename what is there first).")
        elif archives or tars:
            text = f"{path} holds no images, but {archives[0] if archives else tars[0]} is not unpacked."  # type: ignore
            yield error("not-unpacked", text, f"Run 'qprompt prepare-data {layout.name} {root}'.")
        else:
            advice = f"'qprompt prepare-data {layout.name} {root}' says where to get them."
            yield error("no-images", f"{path} {'holds no images' if path.is_dir() else 'is not there'}.", advice)


def _has_images(path: Path, depth: int = 3) -> bool:
    if not path.is_dir():
        return False
    return bool(images_in(path)) or (depth > 0 and any(_has_images(path / f, depth - 1) for f in folders_in(path)))


def _nested(folder: Path, name: str, expected: Path, depth: int = 3) -> Path | None:
    """A folder called `name` with images, elsewhere below `folder` than expected."""
    for child in folders_in(folder):
        path = folder / child
        if child == name and path != expected and _has_images(path):
            return path
        if depth and (found := _nested(path, name, expected, depth - 1)):
            return found
    return None


def _missing(layout: Layout, name: str) -> Finding:
    pages = " or ".join((*downloads.PAGES[layout.name], downloads.SPLITS))
    advice = f"Get it from {pages}."
    if layout.test_only and name == "classnames.txt":
        advice = "Copy imagenet/classnames.txt there ('qprompt prepare-data' does)."
    return error("missing-file", f"{layout.folder}/{name} is not there.", advice)


def check_split(split: Split, image_dir: Path) -> Iterator[Finding]:
    """Labels, images in two parts, images that are not there."""
    try:
        names = class_names(split.train)
        for part in ("val", "test"):
            beyond = [item for item in getattr(split, part) if item.label >= len(names)]
            if beyond:
                text = f"{len(beyond)} {part} images have labels without training images, e.g. {beyond[0].path}."
                yield error("labels", text, "Add training images or leave that class out.")
    except UserError as reason:
        yield error("labels", str(reason), "Correct the labels: 0, 1, 2, ... without gaps, one name each.")
    # one list may serve as two parts (ImageNet's val and test)
    counts = Counter(item.path for part in {id(part): part for part in split}.values() for item in part)
    double = sorted(path for path, count in counts.items() if count > 1)
    if double:
        text = f"{len(double)} images come twice in train, val and test, e.g. {double[0]}."
        yield error("overlap", text, "Images both trained and tested on make accuracies too high: get the split again.")
    paths = {item.path for part in split for item in part}
    gone = sorted(missing_files(image_dir, paths))
    if gone:
        text = f"{len(gone)} of {len(paths)} images of the split are not there, e.g. {image_dir / gone[0]}."
        yield error("missing-images", text, _other_spelling(image_dir / gone[0]) or "Unpack the archive again.")


def _other_spelling(path: Path) -> str:
    if path.parent.is_dir():
        for name in os.listdir(path.parent):
            if Path(name).stem.lower() == path.stem.lower():
                return f"There is {path.parent / name}: rename (file names matter to the letter)."
    return ""


def _sizes(layout: Layout, split: Split, fixed: bool) -> Iterator[Finding]:
    """Numbers against the known ones: each part of a fixed split, the total of one that will be drawn."""
    got = {"classes": len({item.label for item in split.train}), "test images": len(split.test)}
    known = {"classes": layout.classes, "test images": layout.test}
    if not layout.test_only:
        got |= {"training images": len(split.train), "validation images": len(split.val)}
        known |= {"training images": layout.train, "validation images": layout.val}
    if not fixed:
        got = {"classes": got["classes"], "images": sum(map(len, split))}
        known = {"classes": layout.classes, "images": layout.train + layout.val + layout.test}
    wrong = [f"{got[what]:,} {what} instead of {known[what]:,}" for what in got if got[what] != known[what]]
    if wrong:
        text = f"{layout.name} has {', '.join(wrong)}."
        yield error("wrong-count", text, "Unpack the archives again. Published numbers are for the whole data set.")


def _caches(folder: Path, split: Split, with_val: bool) -> Iterator[Finding]:
    """Upstream's pickles that do not fit the data: upstream would use them all the same."""
    for file in (*sorted((folder / "split_fewshot").glob("*.pkl")), folder / "preprocessed.pkl"):
        shots = re.fullmatch(r"shot_(\d+)-seed_-?\d+\.pkl", file.name)
        try:
            if shots:
                coop_pickle.read_draw(file, split, int(shots[1]), with_val)
            elif file.name == "preprocessed.pkl" and file.is_file():
                coop_pickle.same_in_its_order(file, {"train": list(split.train), "test": list(split.test)})
        except UserError as reason:
            yield warning("stale-cache", str(reason), "Runs here do not use it. CoOp and MaPLe would: delete it.")


def check_own(root: Path, list_file: Path | None) -> tuple[list[Finding], Split | None]:
    """Findings on class folders below `root`, or on a list of images, and the split that they make."""
    try:
        split = read_item_list(list_file, root) if list_file else read_image_folder(root)
    except UserError as reason:
        return [error("unreadable-tree", str(reason), "docs/your_data.md shows the layouts that are read.")], None
    findings = list(check_split(split, root))
    sizes = Counter(item.classname for item in split.train)
    name, least = min(sizes.items(), key=lambda pair: pair[1])
    if least < 16:
        text = f"class {name!r} has {least} training images: with more shots than that it gives all it has."
        findings.append(warning("few-images", text, "Nothing to do, if that is meant."))
    if all(name.isdigit() for name in sizes):
        text = f"class names are numbers ({name}, ...): a prompt needs words."
        findings.append(warning("number-names", text, "Give the names: DATASET.CLASSNAMES names.txt"))
    return findings, split
