"""ImageNet and its four variants: class names by synset, images in one folder a class."""

import logging
import random
from pathlib import Path

from qprompt.data.items import Item, Split
from qprompt.data.readers import Read, folders_in, images_in, read_lines
from qprompt.errors import UserError

logger = logging.getLogger(__name__)


def read_classnames(folder: Path) -> dict[str, str]:
    """``classnames.txt``: ``n01440764 tench`` a line, in label order."""
    path = folder / "classnames.txt"
    if not path.is_file():
        raise UserError(f"{path} is not there: the variants take a copy of imagenet/classnames.txt.")
    return {synset: name for synset, _, name in (line.partition(" ") for line in read_lines(path))}


def imagenet(folder: Path, rng: random.Random) -> Split:
    """``images/train`` and ``images/val``; the val images are val and test.

    Where upstream left its ``preprocessed.pkl`` and it lists the very images on disk, its order is kept, so that
    draws stay those that upstream made from it.
    """
    from qprompt.data import coop_pickle

    names = read_classnames(folder)
    train, test = (_synset_folders(folder / "images" / part, names, f"{part}/") for part in ("train", "val"))
    _same_classes(folder / "images", train, test)
    pickled = folder / "preprocessed.pkl"
    if pickled.is_file():
        try:
            train, test = coop_pickle.same_in_its_order(pickled, {"train": train, "test": test})
        except UserError as reason:
            logger.warning("Not used: %s", reason)
    return Split(train, test, test)


def _same_classes(images: Path, train: list[Item], test: list[Item]) -> None:
    """Labels are positions among the folders: one folder more on one side would shift all that follow."""
    if not test and images_in(images / "val"):
        raise UserError(
            f"{images / 'val'} holds loose images, not one folder a class. "
            f"'qprompt prepare-data ImageNet {images.parent.parent}' moves them."
        )
    synsets = [{item.path.split("/")[1] for item in part} for part in (train, test)]
    odd = synsets[0] ^ synsets[1]
    if odd:
        raise UserError(f"{images}: train and val differ in {len(odd)} class folders, e.g. {min(odd)!r}.")


def variant(images: str) -> Read:
    """ImageNet-Sketch, -A and -R: synset folders below `images`, all for testing."""

    def read(folder: Path, rng: random.Random) -> Split:
        items = _synset_folders(folder / images, read_classnames(folder))
        return Split(items, [], items)

    return read


def imagenetv2(folder: Path, rng: random.Random) -> Split:
    """Folders ``0`` to ``999`` named by the label, which is the line in ``classnames.txt``."""
    images = folder / "imagenetv2-matched-frequency-format-val"
    items = [
        Item(f"{label}/{file}", label, name)
        for label, name in enumerate(read_classnames(folder).values())
        for file in images_in(images / str(label))
    ]
    return Split(items, [], items)


def _synset_folders(path: Path, names: dict[str, str], prefix: str = "") -> list[Item]:
    items = []
    for label, synset in enumerate(folders_in(path)):
        if synset not in names:
            raise UserError(f"{path / synset}: {synset!r} is not in classnames.txt.")
        items += [Item(f"{prefix}{synset}/{file}", label, names[synset]) for file in images_in(path / synset)]
    return items
