"""Read a data set of the user that has one folder per class, with or without a split."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from qprompt.data.fewshot import Source
from qprompt.data.items import Item, Split, by_label
from qprompt.data.readers import folders_in, images_in
from qprompt.errors import UserError

logger = logging.getLogger(__name__)
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def image_folder(root: Path) -> Source:
    """Return the source of a data set with one folder per class (see `read_image_folder`)."""
    return Source(image_dir=root, read=lambda rng: read_image_folder(root))


def read_image_folder(root: Path) -> Split:
    """Read class folders; labels are in alphabetical order of the folders.

    Args:
        root: Holds one folder per class, or train, val and test with one folder per class each. Val and test are
            optional (see `complete`).

    Raises:
        UserError: Images are not in class folders, a class has no images, or there are fewer than two classes.
    """
    folders = folders_in(root)
    part_folders = {part: next((f for f in folders if f.lower() in names), None) for part, names in PARTS.items()}
    if not part_folders["train"]:
        items = {"train": _class_items(root, "", folders)}
    else:
        classes = folders_in(root / part_folders["train"])
        items = {part: _class_items(root, f"{name}/", classes) for part, name in part_folders.items() if name}
    return complete(items, str(root))


def _class_items(root: Path, prefix: str, classes: list[str]) -> list[Item]:
    folder = root / prefix
    if images_in(folder):
        raise UserError(f"{folder} holds images next to folders: put each image into the folder of its class.")
    for name in folders_in(folder):
        if name not in classes:
            raise UserError(f"{folder / name}: class {name!r} has no folder of training images.")
        if not images_in(folder / name):
            inner = folders_in(folder / name)
            hint = f" It holds folders ({inner[0]}, ...): is --root one level too high?" if inner else ""
            raise UserError(f"{folder / name} holds no images.{hint}")
    if len(classes) < 2:
        raise UserError(f"{folder} has {len(classes)} class folders, expected at least 2: ROOT/<class>/<image>.")
    present = folders_in(folder)
    return [
        Item(f"{prefix}{name}/{file}", label, name)
        for label, name in enumerate(classes)
        if name in present
        for file in images_in(folder / name)
    ]


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

    The result does not depend on a seed, the machine or the order of `items`.

    Raises:
        UserError: A class has one image.
    """
    split = Split([], [], [])
    for group in by_label(items).values():
        if len(group) < 2:
            raise UserError(f"class {group[0].classname!r} has one image, expected at least 2 (train and test).")
        group.sort(key=lambda item: hashlib.sha256(item.path.encode("utf-8", "surrogateescape")).digest())
        test = max(1, round(len(group) * 0.3))
        val = test + round(len(group) * 0.2)
        for part, drawn in zip(split, (group[val:], group[test:val], group[:test]), strict=True):
            part.extend(sorted(drawn))  # type: ignore[attr-defined]
    return split
