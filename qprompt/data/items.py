"""Items and splits, and the three steps of the protocol on them: draw the shots, subset the classes, hash."""

import hashlib
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from qprompt.errors import UserError, did_you_mean

SUBSETS = ("all", "base", "new")


class Item(NamedTuple):
    """One image. `path` is relative to the image folder of its data set, with ``/`` between its parts."""

    path: str
    label: int
    classname: str


class Split(NamedTuple):
    """Train, val and test items. An empty `val` means that the data set has none."""

    train: Sequence[Item]
    val: Sequence[Item]
    test: Sequence[Item]


def by_label(items: Sequence[Item]) -> dict[int, list[Item]]:
    """Items of each label; labels in the order of their first appearance."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return groups


def draw_shots(items: Sequence[Item], shots: int, rng: random.Random) -> list[Item]:
    """`shots` items of each class by ``rng.sample``; a class with fewer gives all it has, in order.

    Draws exactly what CoOp draws when `rng` is ``random.Random(seed)``: class by class in label order of
    first appearance, without repetition.
    """
    drawn: list[Item] = []
    for group in by_label(items).values():
        drawn += rng.sample(group, shots) if len(group) >= shots else group
    return drawn


def split_by_fractions(group: Sequence[Item], rng: random.Random) -> tuple[list[Item], list[Item], list[Item]]:
    """One class, shuffled, into 50 % train, 20 % val and 30 % test (CoOp's rule where no official split is)."""
    shuffled = list(group)
    rng.shuffle(shuffled)
    train = round(len(shuffled) * 0.5)
    val = train + round(len(shuffled) * 0.2)
    parts = shuffled[:train], shuffled[train:val], shuffled[val:]
    if not all(parts):
        raise UserError(
            f"class {group[0].classname!r} has {len(group)} images: too few to split into train, val and test."
        )
    return parts


def split_trainval(trainval: Sequence[Item], rng: random.Random) -> tuple[list[Item], list[Item]]:
    """Official training items into 80 % train and 20 % val, class by class (CoOp's rule)."""
    train: list[Item] = []
    val: list[Item] = []
    for group in by_label(trainval).values():
        count = round(len(group) * 0.2)
        if count == 0:
            raise UserError(f"class {group[0].classname!r} has {len(group)} training images: too few for a val split.")
        # Positions rather than items are shuffled: same stream, same result as upstream's draw.
        rng.shuffle(group)
        val += group[:count]
        train += group[count:]
    return train, val


def check_subset(subset: str) -> None:
    """UserError unless `subset` is one of SUBSETS."""
    if subset not in SUBSETS:
        raise UserError(
            f"DATASET.SUBSAMPLE_CLASSES is {subset!r}: expected one of {', '.join(SUBSETS)}."
            f"{did_you_mean(str(subset), SUBSETS)}"
        )


def subset_classes(split: Split, subset: str) -> Split:
    """The base (first half, rounded up) or new classes of the labels that train holds, relabelled from 0."""
    check_subset(subset)
    if subset == "all":
        return split
    labels = sorted({item.label for item in split.train})
    half = math.ceil(len(labels) / 2)
    chosen = labels[:half] if subset == "base" else labels[half:]
    if not chosen:
        raise UserError(f"DATASET.SUBSAMPLE_CLASSES {subset}: a data set of {len(labels)} class has no {subset} half.")
    renamed = {label: position for position, label in enumerate(chosen)}
    return Split(*([i._replace(label=renamed[i.label]) for i in part if i.label in renamed] for part in split))


def class_names(items: Sequence[Item]) -> list[str]:
    """Name of each label, from 0 on. Gaps, and two names for one label, raise UserError."""
    names: dict[int, str] = {}
    for item in items:
        other = names.setdefault(item.label, item.classname)
        if other != item.classname:
            raise UserError(f"label {item.label} has two class names, {other!r} and {item.classname!r}: {item.path}.")
    for expected, label in enumerate(sorted(names)):
        if label != expected:
            hint = " Are the labels 1-based? They count from 0." if expected == 0 and label == 1 else ""
            raise UserError(f"label {expected} has no training image, label {label} has.{hint}")
    return [names[label] for label in sorted(names)]


def split_hash(split: Split, part_names: Sequence[str] = Split._fields) -> str:
    """Return the SHA-256 of a split as hex digits: path, label and class name of every item, in order.

    Args:
        split: The train, val and test items.
        part_names: The names under which the three parts enter the hash.
    """
    digest = hashlib.sha256()
    for name, part in zip(part_names, split, strict=True):
        digest.update(f"[{name}]\n".encode())
        for item in part:
            digest.update(f"{item.path}\t{item.label}\t{item.classname}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
