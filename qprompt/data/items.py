"""Items and splits, and the operations on them: few-shot sampling, class subsets, hashing."""

import hashlib
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from qprompt.errors import UserError, did_you_mean

SUBSETS = ("all", "base", "new")


class Item(NamedTuple):
    """One image.

    Attributes:
        path: Relative to the image folder of the data set, with ``/`` as separator.
        label: From 0.
        classname: The name of the class.
    """

    path: str
    label: int
    classname: str


class Split(NamedTuple):
    """Train, val and test items. An empty `val` means that the data set has no validation images."""

    train: Sequence[Item]
    val: Sequence[Item]
    test: Sequence[Item]


def by_label(items: Sequence[Item]) -> dict[int, list[Item]]:
    """Group items by label; labels are in order of first appearance."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return groups


def draw_shots(items: Sequence[Item], shots: int, rng: random.Random) -> list[Item]:
    """Sample `shots` items per class without replacement; of a smaller class, take all items in order.

    With ``random.Random(seed)`` the result is the one of CoOp: classes in order of first appearance, each drawn with
    ``rng.sample``.
    """
    drawn: list[Item] = []
    for group in by_label(items).values():
        drawn += rng.sample(group, shots) if len(group) >= shots else group
    return drawn


def split_by_fractions(group: Sequence[Item], rng: random.Random) -> tuple[list[Item], list[Item], list[Item]]:
    """Split the items of one class at random: 50% train, 20% val, 30% test (CoOp's rule without an official split).

    Raises:
        UserError: A part would be empty.
    """
    shuffled = list(group)
    rng.shuffle(shuffled)
    train = round(len(shuffled) * 0.5)
    val = train + round(len(shuffled) * 0.2)
    parts = shuffled[:train], shuffled[train:val], shuffled[val:]
    if not all(parts):
        raise UserError(f"class {group[0].classname!r} has {len(group)} images: too few for train, val and test.")
    return parts


def split_trainval(trainval: Sequence[Item], rng: random.Random) -> tuple[list[Item], list[Item]]:
    """Split official training items at random: 80% train and 20% val of each class (CoOp's rule).

    Raises:
        UserError: A class has too few items for a val split.
    """
    train: list[Item] = []
    val: list[Item] = []
    for group in by_label(trainval).values():
        count = round(len(group) * 0.2)
        if count == 0:
            raise UserError(f"class {group[0].classname!r} has {len(group)} training images: too few for a val split.")
        # Upstream shuffles positions; shuffling the items uses the same random numbers and has the same result.
        rng.shuffle(group)
        val += group[:count]
        train += group[count:]
    return train, val


def check_subset(subset: str) -> None:
    """Raise UserError unless `subset` is one of SUBSETS."""
    if subset not in SUBSETS:
        raise UserError(
            f"DATASET.SUBSAMPLE_CLASSES is {subset!r}: expected one of {', '.join(SUBSETS)}."
            f"{did_you_mean(str(subset), SUBSETS)}"
        )


def subset_classes(split: Split, subset: str) -> Split:
    """Return the part of a split with the base or new classes, relabelled from 0.

    Base classes are the first half of the labels in train, rounded up; new classes are the others.

    Args:
        split: The split with all classes.
        subset: "all", "base" or "new".

    Raises:
        UserError: `subset` is unknown, or there are no such classes.
    """
    check_subset(subset)
    if subset == "all":
        return split
    labels = sorted({item.label for item in split.train})
    half = math.ceil(len(labels) / 2)
    chosen = labels[:half] if subset == "base" else labels[half:]
    if not chosen:
        raise UserError(f"DATASET.SUBSAMPLE_CLASSES {subset} needs at least 2 classes, the data set has {len(labels)}.")
    renamed = {label: position for position, label in enumerate(chosen)}
    return Split(*([i._replace(label=renamed[i.label]) for i in part if i.label in renamed] for part in split))


def class_names(items: Sequence[Item]) -> list[str]:
    """Return the class names in label order.

    Raises:
        UserError: Labels are not 0, 1, 2, ... without gaps, or a label has two names.
    """
    names: dict[int, str] = {}
    for item in items:
        other = names.setdefault(item.label, item.classname)
        if other != item.classname:
            raise UserError(f"label {item.label} has two class names, {other!r} and {item.classname!r}: {item.path}.")
    for expected, label in enumerate(sorted(names)):
        if label != expected:
            hint = " Are the labels 1-based? They must start at 0." if expected == 0 and label == 1 else ""
            raise UserError(f"label {expected} has no training image, but label {label} has.{hint}")
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
