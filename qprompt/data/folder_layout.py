"""What the folders of a data set mean: classes, parts of a split, or groups of classes."""

import re
import shlex
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from qprompt.data.tree import Folder, printable
from qprompt.errors import UserError, did_you_mean

# Config key DATASET.LAYOUT: the meaning of each level of folders. What lies deeper belongs to the class.
LAYOUTS = {
    "auto": "decided by the folders; refused if they can be read in two ways",
    "class": "ROOT/<class>/...",
    "split/class": "ROOT/<train, val or test>/<class>/...",
    "class/split": "ROOT/<class>/<train, val or test>/...",
    "group/class": "ROOT/<any>/<class>/...",
    "split/group/class": "ROOT/<train, val or test>/<any>/<class>/...",
}
_WORDS = {
    "train": "train|training|trn",
    "val": "val|valid|validation|dev|devel|development",
    "test": "test|testing|tst|eval|evaluation|holdout",
}
_THINGS = "set|sets|data|dataset|images?|imgs?|img|pictures?|photos?|samples?|split|dir|folder"
_UNLABELLED = re.compile(
    r"(un|not|no)[ _.-]?(label|labell|lable|sorted|classified|annotated|sup)\w*|test_?stg\d*", re.I
)


def part_of(name: str) -> str:
    """Return train, val or test if `name` is a usual name of that part of a split, else ""."""
    text = unicodedata.normalize("NFKC", name).casefold().strip()
    for part, words in _WORDS.items():
        if re.fullmatch(rf"(({_THINGS})[ _.-]*)?({words})[ _.-]*({_THINGS})?[ _.-]*\d*", text):
            return part
    return ""


class Ambiguous(UserError):
    """Folders that can be read in several ways.

    Attributes:
        layouts: The values of DATASET.LAYOUT for these readings.
    """

    def __init__(self, root: Path, readings: dict[str, str], other: str = ""):
        self.layouts = tuple(readings)
        ways = [f"{text}: type DATASET.LAYOUT {layout}" for layout, text in readings.items()] + [other] * bool(other)
        super().__init__(f"{root} can be read in {len(ways)} ways. " + "; or ".join(ways) + ".")


def check_layout_name(layout: str) -> None:
    """Raise UserError unless `layout` is one of LAYOUTS."""
    if layout not in LAYOUTS:
        hint = did_you_mean(layout, LAYOUTS)
        raise UserError(f"DATASET.LAYOUT is {layout!r}: expected one of {', '.join(LAYOUTS)}.{hint}")


def decide(root: Path, tree: Folder) -> str:
    """Return the layout of a tree.

    Raises:
        Ambiguous: There are several.
        UserError: There are several folders for one part of the split, or none for training.
    """
    full = [folder for folder in tree.folders.values() if folder.has_images]
    parts = [folder for folder in full if part_of(folder.name)]
    others = [folder for folder in full if folder not in parts]
    train = [folder for folder in parts if part_of(folder.name) == "train"]
    sorted_in = [folder for folder in parts if _class_folders(folder)]  # parts that hold class folders
    loose = [folder for folder in parts if folder not in sorted_in]
    if not parts or not (sorted_in or len(parts) > 1):  # "test" as a class among others
        return _classes(root, tree, "")
    if not sorted_in:
        readings = {"class": f"{_named(parts)} are classes, like every folder there"}
        raise Ambiguous(root, readings, f"{_named(parts)} are parts of a split: put their images into class folders")
    if all(_UNLABELLED.fullmatch(folder.name) for folder in others):
        others = []
    if others:
        split = f"{_named(parts)} are parts of a split with class folders in them, and {_named(others)} not read"
        readings = {"split/class": split, "class": f"{_named([*parts, *others])} are classes"}
        if not train:
            moves = shlex.join(["mv", *(str(root / folder.path) for folder in others), str(root / "train")])
            move = f"{shlex.join(['mkdir', str(root / 'train')])} && {moves}"
            other = f"{_named(others)} are the classes of the training images: {move}"
            raise Ambiguous(root, {"class": readings["class"]}, other)
        raise Ambiguous(root, readings)
    if not train or train[0] in loose:
        here = f"{_named(parts)} are parts of a split without class folders of training images: add train/<class>/"
        raise Ambiguous(root, {"class": f"{_named(parts)} are classes"}, here)
    for part in _WORDS:
        same = [folder for folder in parts if part_of(folder.name) == part]
        if len(same) > 1:
            away = shlex.join(["mv", str(root / same[1].path), str(root / f".{same[1].name}")])
            raise Ambiguous(
                root,
                {"class": f"{_named(parts)} are classes"},
                f"they are parts of a split, of which {_named(same)} are both {part}: hide one, as in {away}",
            )
    return _classes(root, train[0], "split/")


def _classes(root: Path, folder: Folder, before: str) -> str:
    """The layout of a folder of classes: whether classes are the folders in it or the folders in these."""
    full = [child for child in folder.folders.values() if child.has_images]
    unlabelled = [child for child in full if _UNLABELLED.fullmatch(child.name)]
    if unlabelled and len(full) > len(unlabelled):
        hide = shlex.join(["mv", str(root / unlabelled[0].path), str(root / folder.path / f".{unlabelled[0].name}")])
        raise Ambiguous(
            root,
            {f"{before}class": f"{_named(unlabelled)} is a class"},
            f"{_named(unlabelled)} holds images without a class: hide it, {hide}",
        )
    inner = {name for child in full for name, inside in child.folders.items() if inside.has_images}
    divided = [child for child in full if len({part_of(name) for name in child.folders} - {""}) > 1]
    if len(full) > 1 and not any(child.images for child in full) and len(inner) == 1:
        _check_deeper(root, full, before)
    if len(full) < 2 or any(child.images for child in full) and not divided or len(inner) < 2:
        return f"{before}class"
    shown = ", ".join(printable(child.path) for child in full[:3])
    readings = {f"{before}class": f"the classes are {shown}, with all images below each"}
    if all(part_of(name) for name in inner) or any(child.images for child in full):
        if not before:
            readings["class/split"] = f"the classes are {shown}, with {', '.join(sorted(inner)[:3])} in each"
    else:
        deeper = [inside.path for child in full for inside in child.folders.values() if inside.has_images]
        readings[f"{before}group/class"] = f"the classes are {', '.join(map(printable, deeper[:3]))}, ..."
    if len(readings) == 1:
        return f"{before}class"
    raise Ambiguous(root, readings)


def _check_deeper(root: Path, folders: Sequence[Folder], before: str) -> None:
    """Refuse folders like DOMAIN/images/<class>, which are read as classes or as groups of classes."""
    for folder in folders:
        (between,) = (inside for inside in folder.folders.values() if inside.has_images)
        deeper = [child for child in between.folders.values() if child.has_images]
        if len(deeper) > 1:
            reading = (
                f"the classes are {', '.join(printable(child.path) for child in folders[:3])}, with all images below"
            )
            other = f"the classes are {_named(deeper)} in {printable(between.path)}"
            command = shlex.join(["qprompt", "check-data", str(root / between.path), "ImageFolder"])
            raise Ambiguous(root, {f"{before}class": reading}, f"{other}: this folder is the data root then, {command}")


def _class_folders(folder: Folder) -> bool:
    return not folder.images and folder.has_images or sum(child.has_images for child in folder.folders.values()) > 1


def _named(folders: Sequence[Folder]) -> str:
    names = [repr(printable(folder.name)) for folder in folders]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
