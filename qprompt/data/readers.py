"""Read the official files of each benchmark: one function per kind of layout.

Each takes the data set's folder and a random generator, and returns a split with paths relative to the image folder.
Directory listings are sorted (upstream uses the order of the file system), so that random splits and few-shot draws
depend on the seed alone.
"""

import os
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from qprompt.data.items import Item, Split, by_label, split_by_fractions, split_trainval
from qprompt.errors import UserError
from qprompt.io.files import read_json
from qprompt.io.text import read_text

Read = Callable[[Path, random.Random], Split]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def folders_in(path: Path) -> list[str]:
    """Return the sorted names of the folders in `path`, without hidden ones.

    Raises:
        UserError: `path` cannot be listed.
    """
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Run 'qprompt check-data' on the data root.") from None


def images_in(path: Path) -> list[str]:
    """Return the sorted names of the image files in `path`, without hidden ones.

    Raises:
        UserError: `path` cannot be listed.
    """
    try:
        with os.scandir(path) as entries:
            names = [e.name for e in entries]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Run 'qprompt check-data' on the data root.") from None
    return sorted(n for n in names if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith("."))


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty ones.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}). Run 'qprompt check-data' on the data root.") from None


def _parse_lines(path: Path, parse: Callable[[str], Item]) -> list[Item]:
    """Apply `parse` to each line; an error names the line."""
    items = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            items.append(parse(line))
        except (ValueError, KeyError, IndexError):
            raise UserError(f"{path}, line {number} has an unexpected format: {line!r}.") from None
    return items


def class_folders(images: str, ignored: tuple[str, ...] = (), renamed: Mapping[str, str] | None = None) -> Read:
    """Return a reader of one folder per class below `images`; random 50/20/30 split.

    Args:
        images: The folder with the class folders.
        ignored: Class folders to skip.
        renamed: Class names that differ from the folder's.
    """

    def read(folder: Path, rng: random.Random) -> Split:
        split = Split([], [], [])
        names = [name for name in folders_in(folder / images) if name not in ignored]
        for label, name in enumerate(names):
            class_name = (renamed or {}).get(name, name)
            group = [Item(f"{name}/{file}", label, class_name) for file in images_in(folder / images / name)]
            if not group:
                raise UserError(f"{folder / images / name} holds no images.")
            for part, drawn in zip(split, split_by_fractions(group, rng), strict=True):
                part.extend(drawn)  # type: ignore[attr-defined]
        return split

    return read


def oxford_pets(folder: Path, rng: random.Random) -> Split:
    """Read ``annotations/*.txt``: lines such as ``Abyssinian_100 1 1 1``, the second word is the 1-based label."""

    def parse(line: str) -> Item:
        name, label, _species, _breed = line.split(" ")
        return Item(f"{name}.jpg", int(label) - 1, name.rpartition("_")[0].lower())

    train, val = split_trainval(_parse_lines(folder / "annotations/trainval.txt", parse), rng)
    return Split(train, val, _parse_lines(folder / "annotations/test.txt", parse))


def stanford_cars(folder: Path, rng: random.Random) -> Split:
    """Read the devkit's .mat files; "Audi TT RS Coupe 2012" becomes "2012 Audi TT RS Coupe"."""
    meta = read_mat(folder / "devkit/cars_meta.mat", "class_names")[0]
    names = []
    for entry in meta:
        model, _, year = str(entry[0]).rpartition(" ")
        names.append(f"{year} {model}")

    def items(images: str, annotations: str) -> list[Item]:
        rows = read_mat(folder / annotations, "annotations")[0]
        labels = [int(row["class"][0, 0]) - 1 for row in rows]
        return [
            Item(f"{images}/{row['fname'][0]}", label, names[label]) for row, label in zip(rows, labels, strict=True)
        ]

    train, val = split_trainval(items("cars_train", "devkit/cars_train_annos.mat"), rng)
    return Split(train, val, items("cars_test", "cars_test_annos_withlabels.mat"))


def oxford_flowers(folder: Path, rng: random.Random) -> Split:
    """Read ``imagelabels.mat`` (1-based labels of image 1, 2, ...) and ``cat_to_name.json``; random 50/20/30 split."""
    labels = read_mat(folder / "imagelabels.mat", "labels")[0]
    try:
        names = read_json(folder / "cat_to_name.json")
        items = [
            Item(f"image_{number:05d}.jpg", int(label) - 1, names[str(label)]) for number, label in enumerate(labels, 1)
        ]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / 'cat_to_name.json'} cannot be read ({type(error).__name__}: {error}).") from None
    split = Split([], [], [])
    for group in by_label(items).values():
        for part, drawn in zip(split, split_by_fractions(group, rng), strict=True):
            part.extend(drawn)  # type: ignore[attr-defined]
    return split


def fgvc_aircraft(folder: Path, rng: random.Random) -> Split:
    """Read ``images_variant_*.txt`` (lines such as ``1025794 707-320``); labels are in order of ``variants.txt``."""
    labels = {name: label for label, name in enumerate(read_lines(folder / "variants.txt"))}

    def parse(line: str) -> Item:
        image, _, name = line.partition(" ")
        return Item(f"{image}.jpg", labels[name], name)

    return Split(*(_parse_lines(folder / f"images_variant_{part}.txt", parse) for part in Split._fields))


def sun397(folder: Path, rng: random.Random) -> Split:
    """Read the first partition; ``/b/balcony/exterior`` is class "exterior balcony"."""
    labels = {name.removeprefix("/"): label for label, name in enumerate(read_lines(folder / "ClassName.txt"))}

    def parse(line: str) -> Item:
        path = line.removeprefix("/")
        place = path.rpartition("/")[0]
        return Item(path, labels[place], " ".join(reversed(place.split("/")[1:])))

    train, val = split_trainval(_parse_lines(folder / "Training_01.txt", parse), rng)
    return Split(train, val, _parse_lines(folder / "Testing_01.txt", parse))


def ucf101(folder: Path, rng: random.Random) -> Split:
    """Read the first lists; ``ApplyEyeMakeup/v_x.avi 1`` is the middle frame ``Apply_Eye_Makeup/v_x.jpg``."""
    lists = folder / "ucfTrainTestlist"
    labels = {}
    for line in read_lines(lists / "classInd.txt"):
        number, _, action = line.partition(" ")
        labels[action] = int(number) - 1

    def parse(line: str) -> Item:
        action, video = line.split(" ")[0].split("/")
        name = "_".join(re.findall("[A-Z][^A-Z]*", action))
        return Item(f"{name}/{video.replace('.avi', '.jpg')}", labels[action], name)

    train, val = split_trainval(_parse_lines(lists / "trainlist01.txt", parse), rng)
    return Split(train, val, _parse_lines(lists / "testlist01.txt", parse))


def read_mat(path: Path, key: str):
    """Read one variable of a MATLAB file.

    Raises:
        UserError: The file cannot be read or has no such variable.
    """
    from scipy.io import loadmat

    try:
        return loadmat(path)[key]
    # scipy raises nearly any exception on a damaged file.
    except Exception as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}).") from None
