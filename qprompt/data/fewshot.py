"""CoOp's few-shot protocol: from the source of a data set to the split that a run trains and tests on."""

import logging
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qprompt.data import coop_pickle
from qprompt.data.items import Item, Split, check_subset, class_names, draw_shots, split_hash, subset_classes
from qprompt.data.split_file import read_items, read_split, write_new
from qprompt.errors import UserError
from qprompt.io.files import read_json

logger = logging.getLogger(__name__)
FORMAT = 1


@dataclass(frozen=True)
class Source:
    """The source of a data set's items.

    Attributes:
        image_dir: The folder that item paths are relative to.
        read: Returns the split with all images; it may use the generator to draw a split that is not official.
        split_file: If this file exists, it is used instead of `read`; else the result of `read` is written to it.
        cache_dir: The folder of cached few-shot draws (CoOp's ``split_fewshot``); None: no cache.
        test_is_val: Whether the val items are the test items, without a few-shot draw (ImageNet).
        test_only: Whether shots and class subsets do not apply (the ImageNet variants).
    """

    image_dir: Path
    read: Callable[[random.Random], Split]
    split_file: Path | None = None
    cache_dir: Path | None = None
    test_is_val: bool = False
    test_only: bool = False


def load(
    source: Source,
    shots: int,
    seed: int,
    subset: str = "all",
    write: bool = True,
    rename: Callable[[Split], Split] | None = None,
) -> Split:
    """Return the split that a run trains and tests on.

    Args:
        source: The data set.
        shots: The number of training images per class; below 1: all.
        seed: Determines the few-shot draw; below 0: a new draw each time, which is not cached.
        subset: "all", "base" (the first half of the classes) or "new" (the second half).
        write: Whether to write the split file and the few-shot draw if they do not exist.
        rename: Changes class names; applied after the draw and before `subset`.

    Raises:
        UserError: Files are missing or invalid, or the split has no training or test images.
    """
    check_subset(subset)
    if source.test_only:
        if shots > 0 or subset != "all":
            logger.info("This data set is for testing only: NUM_SHOTS and SUBSAMPLE_CLASSES have no effect.")
        split = source.read(random.Random())
    else:
        split = _draw_split(source, shots, seed, write)
        if source.test_is_val:
            split = split._replace(val=split.test)
    if rename:
        split = rename(split)
    split = subset_classes(split, "all" if source.test_only else subset)
    _check(split, source.image_dir)
    return split


def _draw_split(source: Source, shots: int, seed: int, write: bool) -> Split:
    # One generator for the split and for the draw, like upstream's global one after set_random_seed.
    rng = random.Random(seed) if seed >= 0 else random.Random()
    split_file = source.split_file
    if split_file is None or split_file.exists():
        full = read_split(split_file) if split_file else source.read(rng)
        return _draw(source, full, shots, seed, rng, write) if shots > 0 else full
    full = source.read(rng)
    split = _draw(source, full, shots, seed, rng, write) if shots > 0 else full
    # The draw was written before the split: a run that sees the split also sees the draw that belongs to it.
    written = write and _write_new(split_file, {part: list(items) for part, items in full._asdict().items()})
    if not written and split_file.exists():
        return _draw_split(source, shots, seed, write)  # another run was faster: use its split
    if not written:
        logger.warning(
            "%s was not written: a run with another seed will train and test on another split.", split_file.name
        )
    return split


def _draw(source: Source, full: Split, shots: int, seed: int, rng: random.Random, write: bool) -> Split:
    key = split_hash(full)
    name = f"shot_{shots}-seed_{seed}"
    cache = source.cache_dir / f"{name}-{key[:12]}.json" if source.cache_dir and seed >= 0 else None
    if cache:
        cached = _cached_draw(cache, cache.with_name(f"{name}.pkl"), full, key, shots, not source.test_is_val)
        if cached:
            return full._replace(**cached)
    parts = {"train": draw_shots(full.train, shots, rng)}
    if not source.test_is_val:
        parts["val"] = draw_shots(full.val, min(shots, 4), rng)
    if cache and write:
        head = {"format": FORMAT, "split": key, "shots": shots, "seed": seed}
        _write_new(cache, {**head, **parts}, replace=cache.exists(), durable=False)  # a lost draw can be repeated
    return full._replace(**parts)


def _cached_draw(
    cache: Path, pickled: Path, full: Split, key: str, shots: int, with_val: bool
) -> dict[str, list[Item]] | None:
    """The draw that an earlier run of ours or of CoOp cached; None if there is none or it does not match the split."""
    try:
        if cache.exists():
            return _read_cache(cache, full, key)
        others = sorted(cache.parent.glob(cache.name.replace(key[:12], "*")))
        if others:
            logger.warning("Not used: %s was drawn from another split than the one on disk.", others[0])
        if pickled.exists():
            draw = coop_pickle.read_draw(pickled, full, shots, with_val)
            logger.info("Using the few-shot draw in %s", pickled)
            return draw
    except UserError as reason:
        logger.warning("Not used: %s Drawing again.", reason)
    return None


def _write_new(path: Path, data: dict, replace: bool = False, durable: bool = True) -> bool:
    try:
        return write_new(path, data, replace, durable)
    except OSError as error:
        logger.warning("%s was not written: %s.", path, error.strerror)
        return False


def _read_cache(path: Path, full: Split, key: str) -> dict[str, list[Item]]:
    """The draw in `path`, which must be from the split `full` with the hash `key`."""
    try:
        data = read_json(path)
        if data["format"] != FORMAT:
            raise UserError(f"{path} has format {data['format']!r}, expected {FORMAT}.")
        if data["split"] != key:
            raise UserError(f"{path} was drawn from another split than the one on disk.")
        parts = {part: read_items(data[part], f"{path}, {part}") for part in ("train", "val") if part in data}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}).") from None
    for part, items in parts.items():
        known = set(getattr(full, part))
        for item in items:
            if item not in known:
                raise UserError(f"{path}: {item.path} is not a {part} item of the split on disk.")
    return parts


def _check(split: Split, image_dir: Path) -> None:
    """Raise UserError unless every class has training images and every file exists."""
    if not split.train or not split.test:
        empty = "train" if not split.train else "test"
        raise UserError(f"{image_dir}: the {empty} set is empty. Run 'qprompt check-data' on the data root.")
    names = class_names(split.train)
    known = len(names)
    if all(name.isdigit() for name in names):
        logger.warning(
            "Class names are numbers (%s, ...), which mean nothing to CLIP. Set names with DATASET.CLASSNAMES FILE.",
            names[0],
        )
    for part in ("val", "test"):
        for item in getattr(split, part):
            if item.label >= known:
                raise UserError(f"{part} item {item.path} has label {item.label}: train has labels 0 to {known - 1}.")
    paths = {item.path for part in split for item in part}
    missing = missing_files(image_dir, paths)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(paths)} images do not exist, the first is {image_dir / min(missing)}. "
            "Run 'qprompt check-data' on the data root."
        )


def missing_files(folder: Path, paths: set[str]) -> list[str]:
    """Return the `paths` that are not files below `folder`. It lists each folder once, which is fast."""
    listed: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent not in listed:
            try:
                with os.scandir(folder / parent) as entries:
                    listed[parent] = {entry.name for entry in entries}
            except OSError:
                listed[parent] = set()
        # The file system may accept other spellings of a name than the one in the listing.
        if name not in listed[parent] and not os.path.isfile(folder / path):
            missing.append(path)
    return missing
