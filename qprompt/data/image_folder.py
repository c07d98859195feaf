"""Read a data set of the user that has one folder per class, with or without a split."""

import hashlib
import logging
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from qprompt.data.class_folders import PARTS, ClassFolders
from qprompt.data.faults import DataFaults, Fault
from qprompt.data.fewshot import Source
from qprompt.data.findings import check_command, hide_command
from qprompt.data.folder_layout import check_layout_name, decide
from qprompt.data.items import Item, Split, by_label
from qprompt.data.tree import LeftOut, printable, scan
from qprompt.errors import UserError

logger = logging.getLogger(__name__)


def image_folder(root: Path, layout: str = "auto") -> Source:
    """Return the source of a data set with one folder per class (see `read_image_folder`)."""
    return Source(image_dir=root, read=lambda rng: read_image_folder(root, layout))


def read_image_folder(root: Path, layout: str = "auto") -> Split:
    """Read class folders and log what is left out; arguments and errors are those of `survey`."""
    split, left_out, notes = survey(root, layout)
    for line in left_out.lines(important=True):
        logger.warning("Not read below %s: %s", root, line)
    for line in left_out.lines(important=False):
        logger.info("Not read below %s: %s", root, line)
    for note in notes:
        logger.info("%s: %s", root, note)
    return split


def survey(root: Path, layout: str = "auto") -> tuple[Split, LeftOut, list[str]]:
    """Read class folders; labels are in natural order of the folders' names (2 before 10).

    Args:
        root: Holds one folder per class, or train, val and test with one folder per class each. Val and test are
            optional (see `complete`). Images in folders below a class folder belong to that class.
        layout: One of `qprompt.data.folder_layout.LAYOUTS`. With "auto", loose images and empty class folders are
            refused; with the others they are left out.

    Returns:
        The split, what is not read, and remarks.

    Raises:
        Ambiguous: The folders can be read in several ways.
        DataFaults: Images are not in class folders, a class has no images, there are fewer than two classes, ...
    """
    check_layout_name(layout)
    tree, left_out = scan(root)
    strict = layout == "auto"
    if strict:
        layout = decide(root, tree)
    found = ClassFolders(root, tree, layout, left_out)
    items = found.items()
    faults = found.faults(strict)
    if not items.get("val") and not items.get("test"):
        faults += [
            Fault(
                f"class {group[0].classname!r} has one image, expected at least 2 (train and test).",
                f"Add images, or hide the class: {hide_command(root / found.folder_of(group[0]))}",
            )
            for group in by_label(items.get("train", [])).values()
            if len(group) == 1
        ]
    if faults:
        raise DataFaults(faults, items, check_command("ImageFolder", root))
    notes = []
    deep = [item.path for part in items.values() for item in part if item.path.count("/") > layout.count("/") + 1]
    if deep:
        notes.append(f"{len(deep):,} images in folders below class folders belong to these ({printable(deep[0])}, ...)")
    lossy = sorted({item.classname for part in items.values() for item in part if "\ufffd" in item.classname})
    if lossy:
        notes.append(
            f"{len(lossy)} folder names are not UTF-8, so prompts contain {lossy[0]!r}: "
            "give names with DATASET.CLASSNAMES"
        )
    return complete(items, str(root)), left_out, notes


def complete(items: Mapping[str, list[Item]], where: str) -> Split:
    """Make a split from the parts that exist: without test, val is also test; without both, train is split.

    Args:
        items: The items of train, val and test; missing parts are empty.
        where: The file or folder, named in errors.

    Raises:
        UserError: There are no training images, or a class has none.
    """
    train, val, test = (items.get(part) or [] for part in PARTS)
    if not train:
        raise UserError(f"{where} has no training images.")
    known = {item.classname for item in train}
    for item in (*val, *test):
        if item.classname not in known:
            raise UserError(f"{where}: {item.path} is of class {item.classname!r}, which has no training image.")
    if not test and val:
        logger.warning("%s has no test images: the validation images are used for testing.", where)
        return Split(train, val, val)
    if not test:
        logger.info("%s has only training images: each class is split into 50%% train, 20%% val, 30%% test.", where)
        return split_by_name(train)
    return Split(train, val, test)


def split_by_name(items: list[Item]) -> Split:
    """Split each class into 50% train, 20% val, 30% test by the hash of the path.

    The result does not depend on a seed, the machine, the Unicode form of names or the order of `items`.

    Raises:
        UserError: A class has one image.
    """

    def digest(item: Item) -> bytes:
        path = unicodedata.normalize("NFC", item.path)
        return hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()

    split = Split([], [], [])
    for group in by_label(items).values():
        if len(group) < 2:
            raise UserError(f"class {group[0].classname!r} has one image, expected at least 2 (train and test).")
        group.sort(key=digest)
        test = max(1, round(len(group) * 0.3))
        val = test + round(len(group) * 0.2)
        for part, drawn in zip(split, (group[val:], group[test:val], group[:test]), strict=True):
            part.extend(sorted(drawn))  # type: ignore[attr-defined]
    return split
