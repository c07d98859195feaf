"""What makes a reported test accuracy too high, and has to be said beside it."""

import hashlib
import os
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from qprompt.errors import UserError
from qprompt.runs.metrics import NOT_UNSEEN, TOO_HIGH, read_metrics
from qprompt.runs.record import METRICS

# The benchmark has some copies, which belong to its published numbers.
OWN_DATA = ("ImageFolder", "ImageList")


def leaks(cfg: CfgNode, dataset: Any) -> list[str]:
    """Return a sentence for each way in which the images that are reported took part in training or in a choice.

    Args:
        cfg: of the run.
        dataset: a Dassl data set, with ``train_x``, ``val`` and ``test``.
    """
    parts = ("train_x", "val", "test")
    train, val, test = ({item.impath for item in getattr(dataset, part, None) or ()} for part in parts)
    # Like Dassl: without validation images, "val" is the test images.
    chosen_on = val or test
    reported = chosen_on if cfg.TEST.SPLIT == "val" else test
    found = []
    best, own = cfg.TEST.FINAL_MODEL == "best_val", cfg.DATASET.NAME in OWN_DATA
    if best and (both := chosen_on & reported):
        found.append(
            f"the epoch was chosen on {_share(both, reported)} that are reported (TEST.FINAL_MODEL best_val): "
            f"{TOO_HIGH}"
        )
    elif best and own and (copies := _copies(chosen_on, reported)):
        found.append(
            f"the epoch was chosen on copies of {_share(copies, reported)} that are reported "
            f"(TEST.FINAL_MODEL best_val): {TOO_HIGH}"
        )
    if both := train & reported:
        found.append(f"{_share(both, reported)} that are reported are training images: {TOO_HIGH}")
    elif own and (copies := _copies(train, reported)):
        found.append(f"{_share(copies, reported)} that are reported are copies of training images: {TOO_HIGH}")
    return found


def leaks_of_training(cfg: CfgNode, model_dir: str | os.PathLike[str]) -> list[str]:
    """Return a sentence for each way in which a run in `model_dir` makes its evaluation with `cfg` too good.

    Nothing is known of a folder without a record, as upstream's.
    """
    try:
        run = read_metrics(Path(model_dir) / METRICS)
    except (OSError, UserError):
        return []
    before = run.flat_config
    own = cfg.DATASET.NAME in OWN_DATA
    if before.get("DATASET.NAME") != cfg.DATASET.NAME:
        return []
    if own and not _same_root(str(before.get("DATASET.ROOT", "")), cfg.DATASET.ROOT):
        return []
    found = []
    if before.get("TEST.SPLIT") == cfg.TEST.SPLIT:
        found += [f"in the training run, {leak}" for leak in run.leaks if leak.endswith(TOO_HIGH)]
    if cfg.DATASET.get("SUBSAMPLE_CLASSES") == "new" and before.get("DATASET.SUBSAMPLE_CLASSES") == "all":
        found.append(
            "the prompt was trained on all classes (DATASET.SUBSAMPLE_CLASSES all), the new ones among them: "
            f"{NOT_UNSEEN}"
        )
    return found


def _same_root(before: str, now: str) -> bool:
    """Return whether two data roots are the same; of a relative one the folder is not known where it began."""
    then, path = Path(before).expanduser(), Path(now).expanduser().resolve()
    return then.resolve() == path or (not then.is_absolute() and path.match(os.path.normpath(then).lstrip("./") or "*"))


def _copies(some: set[str], others: set[str]) -> set[str]:
    """Return the files of `others` with the content of one in `some`; only files of the same size are read."""
    by_size: dict[int, list[str]] = {}
    for path in some:
        by_size.setdefault(_size(path), []).append(path)
    alike = {path: size for path in others if (size := _size(path)) in by_size}
    known = {_digest(path) for size in set(alike.values()) for path in by_size[size]} - {b""}
    return {path for path in alike if _digest(path) in known}


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


def _digest(path: str) -> bytes:
    try:
        return hashlib.sha256(Path(path).read_bytes()).digest()
    except OSError:
        return b""


def _share(some: set[str], every: set[str]) -> str:
    images = f"{len(every)} image{'s' if len(every) > 1 else ''}"
    return f"the {images}" if some == every else f"{len(some)} of the {images}"
