"""Check a split: its labels, images, sizes and the caches made from it."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from qprompt.data import coop_pickle
from qprompt.data.fewshot import missing_files
from qprompt.data.findings import Finding, error, move_command, warning
from qprompt.data.items import Split, class_names
from qprompt.data.layouts import Layout
from qprompt.errors import UserError


def check_split(split: Split, image_dir: Path) -> Iterator[Finding]:
    """Check labels, images that occur more than once, and missing image files.

    Args:
        split: The split with all images.
        image_dir: The folder that item paths are relative to.

    Yields:
        The findings.
    """
    try:
        names = class_names(split.train)
        for part in ("val", "test"):
            beyond = [item for item in getattr(split, part) if item.label >= len(names)]
            if beyond:
                text = f"{len(beyond)} {part} images have labels without training images, for example {beyond[0].path}."
                yield error("labels", text, "Add training images or remove that class.")
    except UserError as reason:
        yield error("labels", str(reason), "Correct the labels: 0, 1, 2, ... without gaps, with one name per label.")
    # One list may be two parts (ImageNet's val and test).
    counts = Counter(item.path for part in {id(part): part for part in split}.values() for item in part)
    repeated = sorted(path for path, count in counts.items() if count > 1)
    if repeated:
        text = f"{len(repeated)} images occur more than once in train, val and test, for example {repeated[0]}."
        yield error("overlap", text, "Download the split again: testing on training images overstates accuracy.")
    paths = {item.path for part in split for item in part}
    missing = sorted(missing_files(image_dir, paths))
    if missing:
        first = image_dir / missing[0]
        text = f"{len(missing)} of {len(paths)} images of the split do not exist, for example {first}."
        yield error("missing-images", text, _rename_advice(first) or "Unpack the archive again.")


def _rename_advice(path: Path) -> str:
    if path.parent.is_dir():
        for name in os.listdir(path.parent):
            if Path(name).stem.lower() == path.stem.lower():
                return f"Rename it (case and suffix matter): {move_command(path.parent / name, path)}"
    return ""


def check_sizes(layout: Layout, split: Split, fixed: bool) -> Iterator[Finding]:
    """Compare the numbers of classes and images with the published ones.

    Args:
        layout: The data set with its published sizes.
        split: The split with all images.
        fixed: Whether the sizes of the parts are fixed; else the split is random, and only the total is compared.

    Yields:
        The findings.
    """
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
        yield error("wrong-count", text, "Unpack the archives again: published results are for the complete data set.")


def check_caches(folder: Path, split: Split, with_val: bool) -> Iterator[Finding]:
    """Find CoOp's pickles that do not match the data, which CoOp would use nevertheless.

    Args:
        folder: The data set's folder.
        split: The split with all images.
        with_val: Whether few-shot draws have validation images.

    Yields:
        The findings.
    """
    for file in (*sorted((folder / "split_fewshot").glob("*.pkl")), folder / "preprocessed.pkl"):
        shots = re.fullmatch(r"shot_(\d+)-seed_-?\d+\.pkl", file.name)
        try:
            if shots:
                coop_pickle.read_draw(file, split, int(shots[1]), with_val)
            elif file.name == "preprocessed.pkl" and file.is_file():
                coop_pickle.read_order(file, {"train": list(split.train), "test": list(split.test)})
        except UserError as reason:
            yield warning("stale-cache", str(reason), "Delete it: it is ignored here, but CoOp and MaPLe would use it.")
