"""Which runs belong to one method, and the shortest names that distinguish the methods of a report."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from qprompt.report.records import Run
from qprompt.runs.identity import without_effect

# A report has columns or rows for these, or they do not change what was trained.
_NOT_METHOD = {
    "SEED", "USE_CUDA", "TRAINER.NAME", "MODEL.BACKBONE.NAME", "DATASET.NAME", "DATASET.LIST",
    "DATASET.DRAW", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES", "DATASET.SOURCE_DOMAINS",
    "DATASET.TARGET_DOMAINS", "DATALOADER.TEST.BATCH_SIZE", "TRAIN.CHECKPOINT_FREQ", "TEST.FINAL_MODEL",
    "DETERMINISTIC", "CUDNN_BENCHMARK", "CUDA_GRAPH",
}  # fmt: skip
# Protocols set these by data set or by shots (ImageNet 50 epochs, others 200). They distinguish methods only if the
# same trainer, data set and shots were run with several values.
_BY_PROTOCOL = ("OPTIM.MAX_EPOCH", "DATALOADER.TRAIN_X.BATCH_SIZE")
_EPOCH = "LOAD_EPOCH"


def owners_of(runs: Sequence[Run]) -> list[Run]:
    """Return the training run of each run: itself, or for an evaluation the one that learned its prompt.

    ``model_dir`` may be relative, and folders move. So without an exact match, the training run is the only one with a
    folder that ends with that path. An evaluation without a training run in `runs` is its own owner.
    """
    trained = [(Path(os.path.realpath(run.folder)).parts, run) for run in runs if run.mode == "train"]
    exact = dict(trained)

    @cache
    def ending(length: int) -> dict[tuple[str, ...], list[Run]]:
        found: dict[tuple[str, ...], list[Run]] = defaultdict(list)
        for parts, run in trained:
            found[parts[-length:]].append(run)
        return found

    def owner(run: Run) -> Run:
        if not run.model_dir:
            return run
        there = exact.get(Path(os.path.realpath(run.model_dir)).parts)
        if there:
            return there
        tail = Path(os.path.normpath(run.model_dir)).parts
        while tail and tail[0] in (os.sep, os.pardir):
            tail = tail[1:]
        alike = ending(len(tail)).get(tail, []) if len(tail) > 1 else []
        return alike[0] if len(alike) == 1 else run

    return [owner(run) for run in runs]


def settings_of(run: Run) -> dict[str, Any]:
    """Return the config keys, as far as they differ from the defaults, that define the method of a run."""
    settings = {k: v for k, v in run.changed.items() if k not in _NOT_METHOD and not without_effect(k, v)}
    if not run.learns:  # a zero-shot run is the same with the YAML file of any trainer
        training = ("OPTIM.", "TRAINER.", "TRAIN.", "DATALOADER.TRAIN_X.")
        settings = {key: value for key, value in settings.items() if not key.startswith(training)}
    last_epoch = run.flat_config.get("OPTIM.MAX_EPOCH")
    if run.loaded_epoch is not None and last_epoch is not None and run.loaded_epoch != last_epoch:
        settings[_EPOCH] = run.loaded_epoch
    return settings


def name_methods(runs: Sequence[Run]) -> list[str]:
    """Return one name per run: the trainer, and the settings in which methods of that trainer differ.

    ``["QCoOp"]`` for one method; ``["QCoOp BITS=1", "QCoOp BITS=2"]`` for two.
    """
    owners = owners_of(runs)
    settings = [settings_of(owner) for owner in owners]
    for run, own in zip(runs, settings, strict=True):
        if _EPOCH in settings_of(run):
            own[_EPOCH] = run.loaded_epoch
    for key in _BY_PROTOCOL:
        _drop_where_by_protocol(key, owners, settings)

    variants: dict[str, list[int]] = defaultdict(list)
    for index, owner in enumerate(owners):
        variants[owner.trainer].append(index)
    several_backbones = len({owner.backbone for owner in owners}) > 1
    names = [""] * len(runs)
    for trainer, members in variants.items():
        keys = {key for index in members for key in settings[index]}
        values = {k: {i: _text(settings[i].get(k, _default(owners[i], k))) for i in members} for k in sorted(keys)}
        short = _shorten(key for key, by_run in values.items() if len(set(by_run.values())) > 1)
        for index in members:
            parts = [trainer, *(f"{ending}={values[key][index]}" for key, ending in short.items())]
            if several_backbones:
                parts.append(owners[index].backbone)
            names[index] = " ".join(parts)
    return names


def _drop_where_by_protocol(key: str, runs: Sequence[Run], settings: Sequence[dict[str, Any]]) -> None:
    seen: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for run, own in zip(runs, settings, strict=True):
        rest = {k: v for k, v in own.items() if k not in _BY_PROTOCOL}
        place = _text([run.trainer, run.backbone, run.dataset, run.shots, sorted(rest.items())])
        seen[place].add((run.trainer, _text(own.get(key))))
    several = {trainer for found in seen.values() if len(found) > 1 for trainer, _ in found}
    for run, own in zip(runs, settings, strict=True):
        if run.trainer not in several:
            own.pop(key, None)


def _default(run: Run, key: str) -> Any:
    return run.flat_config.get(key, "last" if key == _EPOCH else "default")


def _text(value: Any) -> str:
    """A value as one word: ``a_photo_of_a``, ``''``, ``[4,8]``."""
    if isinstance(value, str):
        return "_".join(value.split()) or "''"
    return json.dumps(value, default=str, separators=(",", ":"))


def _shorten(keys: Iterable[str]) -> dict[str, str]:
    """Dotted keys -> their shortest endings that are distinct."""
    keys = list(keys)
    short = {}
    for key in keys:
        parts = key.split(".")
        for length in range(1, len(parts) + 1):
            ending = ".".join(parts[-length:])
            if sum(other == ending or other.endswith("." + ending) for other in keys) == 1:
                break
        short[key] = ending
    return short
