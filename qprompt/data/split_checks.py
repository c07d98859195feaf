"""Check a split: its labels, images, sizes and the caches made from it."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from qprompt.data import coop_pickle
from qprompt.data.fewshot import missing_files
from qprompt.data.findings import Finding, error, warning
from qprompt.data.items import Split, class_names
from qprompt.data.layouts import Layout
from qprompt.data.other_names import find_other_names
from qprompt.data.tree import printable
from qprompt.data.whence import Whence
from qprompt.errors import UserError


def check_split(split: Split, image_dir: Path, whence: Whence) -> Iterator[Finding]:
    """Check labels, images that occur more than once, and missing image files.

    Args:
        split: The split with all images.
        image_dir: The folder that item paths are relative to.
        whence: Where the data come from.

    Yields:
        The findings.
    """
    try:
        names = class_names(split.train)
        for part in ("val", "test"):
            beyond = [item for item in getattr(split, part) if item.label >= len(names)]
            if beyond:
                text = f"{len(beyond)} {part} images have labels without training images, for example {beyond[0].path}."
                yield error("labels", text, whence.list_again("Add training images or remove that class."))
    except UserError as reason:
        text = "Correct the labels: 0, 1, 2, ... without gaps, with one name per label."
        yield error("labels", str(reason), whence.list_again(text))
    # One list may be two parts (ImageNet's val and test).
    counts = Counter(item.path for part in {id(part): part for part in split}.values() for item in part)
    repeated = sorted(path for path, count in counts.items() if count > 1)
    if repeated:
        text = f"{len(repeated)} images occur more than once in train, val and test, for example {repeated[0]}."
        advice = "Delete all entries but one: testing on training images overstates accuracy."
        yield error("overlap", text, whence.list_again(advice))
    yield from check_files(set(counts), image_dir, whence)


def check_files(paths: set[str], image_dir: Path, whence: Whence) -> Iterator[Finding]:
    """Find the `paths` that are not files below `image_dir`, and files with nearly their names."""
    missing = sorted(missing_files(image_dir, paths))
    renamed = find_other_names(image_dir, missing, paths)
    for group in ([path for path in missing if path in renamed], [path for path in missing if path not in renamed]):
        if not group:
            continue
        text = f"{len(group)} of {len(paths)} images of the split do not exist, for example {image_dir / group[0]}"
        if group[0] in renamed:
            text += f", but there is {printable(renamed[group[0]])!r}: case, suffix and Unicode form matter."
            yield error("missing-images", text, f"Rename them: {whence.rename_command}")
        else:
            yield error("missing-images", f"{text}.", whence.files_again(group[0]))


def check_sizes(layout: Layout, split: Split, fixed: bool, whence: Whence) -> Iterator[Finding]:
    """Compare the numbers of classes and images with the published ones.

    Args:
        layout: The data set with its published sizes.
        split: The split with all images.
        fixed: Whether the sizes of the parts are fixed; else the split is random, and only the total is compared.
        whence: Where the data come from.

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
        again = whence.list_again("") if fixed and layout.split_name else whence.files_again("")
        yield error("wrong-count", text, f"{again} (Published results are for the complete data set.)")


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
            yield warning(
                "stale-cache",
                str(reason),
                f"It is ignored here, but CoOp and MaPLe would use it: {shlex.join(['rm', str(file)])}",
            )
