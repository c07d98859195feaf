"""Read ImageNet and its four variants: one folder of images per class, class names by synset."""

import logging
import random
from pathlib import Path

from qprompt.data.findings import prepare_command
from qprompt.data.items import Item, Split
from qprompt.data.readers import Read, folders_in, images_in, read_lines
from qprompt.errors import UserError

logger = logging.getLogger(__name__)


def read_classnames(folder: Path) -> dict[str, str]:
    """Read ``classnames.txt``, with lines such as ``n01440764 tench`` in label order.

    Returns:
        The class name of each synset.
    """
    path = folder / "classnames.txt"
    if not path.is_file():
        raise UserError(f"{path} does not exist: the variants need a copy of imagenet/classnames.txt.")
    return {synset: name for synset, _, name in (line.partition(" ") for line in read_lines(path))}


def imagenet(folder: Path, rng: random.Random) -> Split:
    """Read ``images/train`` and ``images/val``; the val images are both val and test.

    If upstream left its ``preprocessed.pkl`` and it lists exactly the images on disk, its order is used, so that
    few-shot draws are those that upstream made from it.
    """
    from qprompt.data import coop_pickle

    names = read_classnames(folder)
    train, test = (_synset_folders(folder / "images" / part, names, f"{part}/") for part in ("train", "val"))
    _check_same_classes(folder / "images", train, test)
    pickled = folder / "preprocessed.pkl"
    if pickled.is_file():
        try:
            train, test = coop_pickle.read_order(pickled, {"train": train, "test": test})
        except UserError as reason:
            logger.warning("Not used: %s", reason)
    return Split(train, test, test)


def _check_same_classes(images: Path, train: list[Item], test: list[Item]) -> None:
    """Labels are positions among the folders: a folder that only one part has would shift the labels after it."""
    if not test and images_in(images / "val"):
        raise UserError(
            f"{images / 'val'} holds images instead of one folder per class. "
            f"To move them: {prepare_command('ImageNet', images.parent.parent)}"
        )
    synsets = [{item.path.split("/")[1] for item in part} for part in (train, test)]
    different = synsets[0] ^ synsets[1]
    if different:
        example = min(different)
        raise UserError(f"{images}: train and val differ in {len(different)} class folders, for example {example!r}.")


def variant(images: str) -> Read:
    """Return a reader of ImageNet-Sketch, -A or -R: synset folders below `images`, all for testing."""

    def read(folder: Path, rng: random.Random) -> Split:
        items = _synset_folders(folder / images, read_classnames(folder))
        return Split(items, [], items)

    return read


def imagenetv2(folder: Path, rng: random.Random) -> Split:
    """Read the folders ``0`` to ``999``: a folder's name is the label, the line in ``classnames.txt``."""
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
