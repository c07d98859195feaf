"""Finished runs, read from their metrics.json files. What cannot be read is named and left out."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qprompt.errors import UserError
from qprompt.io.nested import flatten

METRICS = "metrics.json"
CONFIG = "config.json"
SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """One finished run. Accuracies are percent, times seconds."""

    folder: Path
    mode: str  # train or eval
    trainer: str
    dataset: str
    draw: int  # which synthetic world; 0 for real data sets
    seed: int
    shots: int
    classes: str  # all, base or new
    backbone: str
    accuracy: float
    finished: str = ""
    curve: tuple[tuple[int, float], ...] = ()  # (epoch, accuracy) of every checkpoint
    prompt: dict[str, Any] = field(default_factory=dict)
    model_dir: str = ""
    load_epoch: int | None = None
    time_s: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # config keys that differ from the defaults
    config: dict[str, Any] = field(default_factory=dict)  # all config keys, flat
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)

    @property
    def learns(self) -> bool:
        """False for a zero-shot run: evaluated, but with nothing trained behind it."""
        return self.mode == "train" or bool(self.model_dir)

    @property
    def stored_bytes(self) -> int | None:
        """Bytes of the learned prompt: indices, levels, and in fp16 what is not quantized; zero-shot: 0."""
        stored = self.prompt.get("payload_bytes")
        if stored is None:
            return None if self.learns else 0
        return stored + (self.prompt.get("fp16_kept_bytes") or 0)


class _Unreadable(Exception):
    pass


def read_runs(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[Run], list[str]]:
    """Every finished run in `paths` (folders, searched to the bottom, or metrics.json files), and the warnings.

    A file that is broken, of another program or of a newer schema gives a warning; so does a folder whose run
    has not finished. UserError: a path that is not there, or no readable run at all.
    """
    runs: dict[Path, Run] = {}
    warnings: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"no {path}: give output folders of runs, or their {METRICS} files.")
        for file in [path] if path.is_file() else _find(path, warnings):
            try:
                runs.setdefault(file.resolve(), read_run(file))
            except _Unreadable as error:
                warnings.append(f"{file}: {error}; left out")
    if not runs:
        for warning in warnings[:-1]:
            warnings[-1] += f"; {warning}"
        reason = f" ({warnings[-1]})" if warnings else ""
        raise UserError(
            f"no finished run in {', '.join(map(str, paths))}{reason}. "
            f"A run writes {METRICS} into its --output-dir when it ends."
        )
    return list(runs.values()), warnings


def _find(folder: Path, warnings: list[str]) -> Iterator[Path]:
    """metrics.json files under `folder`, links followed once each; folders of unfinished runs go to `warnings`."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        if METRICS in files:
            yield Path(parent, METRICS)
        elif CONFIG in files and ".lock" in files:
            warnings.append(f"{parent}: not finished; left out")


def read_run(file: Path) -> Run:
    """The run that one metrics.json tells of."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _Unreadable(f"not readable as JSON ({error})") from None
    if not isinstance(data, dict) or "schema" not in data or "trainer" not in data:
        raise _Unreadable("not the metrics of a QPrompt run (no 'schema' and 'trainer' in it)")
    if data["schema"] != SCHEMA:
        raise _Unreadable(f"schema {data['schema']!r}, this version reads schema {SCHEMA}")
    config = flatten(_get(data, "config", dict, {}))
    mode, classes = _get(data, "mode", str), _get(data, "classes", str)
    if mode not in ("train", "eval") or classes not in ("all", "base", "new"):
        raise _Unreadable(f"mode {mode!r} and classes {classes!r}; expected train or eval, and all, base or new")
    prompt = _get(data, "prompt", dict, {})
    for key in ("payload_bytes", "fp16_kept_bytes"):
        _get(prompt, key, int, None)
    return Run(
        folder=file.parent,
        mode=mode,
        trainer=_get(data, "trainer", str),
        dataset=_dataset_name(_get(data, "dataset", str), config),
        draw=_get({"DATASET.DRAW": 0, **config}, "DATASET.DRAW", int),
        seed=_get(data, "seed", int),
        shots=_get(data, "shots", int),
        classes=classes,
        backbone=_get(data, "backbone", str, ""),
        accuracy=_percent(_get(data, "results", dict), "results.accuracy"),
        finished=_get(data, "finished", str, ""),
        curve=_curve(_get(data, "curve", list, [])),
        prompt=prompt,
        model_dir=_get(data, "model_dir", str, "") if mode == "eval" else "",
        load_epoch=data["load_epoch"] if _is(data.get("load_epoch"), int) else None,
        time_s=_get(data, "train_time_s" if _is(data.get("train_time_s"), float) else "time_s", float, None),
        settings=_get(data, "changed", dict, {}),
        config=config,
        versions=_get(data, "versions", dict, {}),
        hardware=_get(data, "hardware", dict, {}),
    )


# Data of one's own all go by one name; which data it was is in another key.
_OWN_DATA = {"ImageList": "DATASET.LIST", "ImageFolder": "DATASET.ROOT"}


def _dataset_name(name: str, config: dict[str, Any]) -> str:
    which = config.get(_OWN_DATA.get(name, ""))
    return f"{name} {Path(which).stem}" if isinstance(which, str) and which else name


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, kind)


_REQUIRED = object()


def _get(data: dict[str, Any], name: str, kind: type, default: Any = _REQUIRED) -> Any:
    """``data[name]`` of the given type; where null or absent the default, if there is one."""
    value = data.get(name)
    if value is None and default is not _REQUIRED:
        return default
    if not _is(value, kind):
        raise _Unreadable(f"{name} is {value!r}, expected a {'number' if kind is float else kind.__name__}")
    return value


def _percent(results: dict[str, Any], name: str) -> float:
    value = _get(results, "accuracy", float)
    if not 0 <= value <= 100:
        raise _Unreadable(f"{name} is {value!r}, expected percent")
    return float(value)


def _curve(points: list[Any]) -> tuple[tuple[int, float], ...]:
    if not all(isinstance(point, dict) for point in points):
        raise _Unreadable("curve holds something other than records of epochs")
    return tuple(sorted((_get(p, "epoch", int), _percent(p, "curve accuracy")) for p in points))
