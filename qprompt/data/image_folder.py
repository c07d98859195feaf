"""Read a data set of the user that has one folder per class, with or without a split."""

import hashlib
import logging
import shlex
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from qprompt.data.fewshot import Source
from qprompt.data.folder_layout import check_layout_name, decide, part_of
from qprompt.data.items import Item, Split, by_label
from qprompt.data.spelling import in_order, readable
from qprompt.data.tree import EMPTY, NO_CLASS, NO_SPLIT, Folder, LeftOut, printable, scan
from qprompt.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)
PARTS = ("train", "val", "test")
Classes = dict[str, list[str]]  # class folder -> paths of its images


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
        UserError: Images are not in class folders, a class has no images, or there are fewer than two classes.
    """
    check_layout_name(layout)
    tree, left_out = scan(root)
    strict = layout == "auto"
    if strict:
        layout = decide(root, tree)
    classes: dict[str, Classes] = {}
    _collect(tree, layout.split("/"), "train", "", classes, left_out)
    _report(root, tree, layout, classes, left_out, strict)
    items = _items(root, classes)
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


def _collect(
    folder: Folder, levels: list[str], part: str, name: str, classes: dict[str, Classes], left_out: LeftOut
) -> None:
    """Sort the images below `folder` by part and class folder; `levels` are what its subfolders mean."""
    if not levels:
        classes.setdefault(part, {}).setdefault(name, []).extend(folder.walk())
        return
    left_out.add(NO_CLASS, *(f"{folder.path}/{image}".lstrip("/") for image in folder.images))
    for child in folder.folders.values():
        if levels[0] == "split" and not part_of(child.name):
            if child.has_images:  # other files are named one by one
                left_out.add(NO_SPLIT, child.path)
        elif levels[0] == "class" and not child.has_images:
            left_out.add(EMPTY, child.path)
        else:
            child_part = part_of(child.name) if levels[0] == "split" else part
            _collect(child, levels[1:], child_part, child.name if levels[0] == "class" else name, classes, left_out)


def _report(
    root: Path, tree: Folder, layout: str, classes: dict[str, Classes], left_out: LeftOut, strict: bool
) -> None:
    """Refuse images without a class, classes without images and fewer than two classes."""
    where = root
    if layout.startswith("split"):
        where = next((root / child.path for child in tree.folders.values() if part_of(child.name) == "train"), root)
    leave = f"To leave them out, type DATASET.LAYOUT {layout}."
    if strict:
        loose = left_out.paths.get(NO_CLASS, [])
        # A part without any class folder holds images whose class is unknown; they are left out, and a line says so.
        loose = [path for path in loose if classes.get(part_of(path.split("/")[0])) or not layout.startswith("split")]
        if loose:
            raise UserError(
                f"{(root / loose[0]).parent} holds {len(loose)} images next to folders, for example "
                f"{printable(loose[0])}: put each image into the folder of its class. {leave}"
            )
        empty = [path for path in left_out.paths.get(EMPTY, []) if path.count("/") == layout.count("/")]
        if empty:
            raise UserError(f"{root / empty[0]} holds no images. {leave}")
    names = classes.get("train", {})
    if len(names) < 2:
        only = next((child for child in tree.folders.values() if child.has_images), None)
        hint = ""
        if only and len(tree.folders) == 1 and any(child.has_images for child in only.folders.values()):
            hint = f" It holds folders: is --root one level too high? Type --root {shlex.quote(str(root / only.path))}"
        raise UserError(f"{where} has {len(names)} class folders, expected at least 2: {_shape(layout)}.{hint}")


def _shape(layout: str) -> str:
    return "ROOT/" + "/".join(f"<{level}>" for level in layout.split("/")) + "/<image>"


def _items(root: Path, classes: dict[str, Classes]) -> dict[str, list[Item]]:
    """The items of each part. A class is the same in all parts if its folder has the same name, in any Unicode form."""
    names: dict[str, dict[str, str]] = {}  # part -> class -> folder
    for part, folders in classes.items():
        names[part] = {}
        for folder in folders:
            other = names[part].setdefault(readable(folder), folder)
            if other != folder:
                raise UserError(
                    f"{root} has two folders for the class {readable(folder)!r}, whose names differ in Unicode form or "
                    f"in bytes that are not UTF-8, {ascii(other)} and {ascii(folder)}: rename one or move its images."
                )
    order = {name: label for label, name in enumerate(in_order(names["train"]))}
    for part in PARTS:
        for name, folder in names.get(part, {}).items():
            if name not in order:
                path = printable(classes[part][folder][0])
                raise UserError(
                    f"{root}: class {printable(folder)!r} has no folder of training images, but {path} belongs to it."
                    f"{did_you_mean(name, order)}"
                )
    return {
        part: [
            Item(path, label, name)
            for name, label in order.items()
            for path in folders.get(names[part].get(name, ""), [])
        ]
        for part, folders in classes.items()
    }


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
