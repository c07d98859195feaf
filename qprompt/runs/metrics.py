"""``metrics.json``, the record of a finished run: one schema, one writer, one reader."""

import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from qprompt.errors import UserError
from qprompt.io.files import write_json
from qprompt.io.nested import flatten
from qprompt.runs.identity import RunSettings
from qprompt.runs.record import METRICS, SCHEMA, read_object

MODES = ("train", "eval")
CLASSES = ("all", "base", "new")
# Left out of the file where they are empty.
_OPTIONAL = ("prompt", "pixels", "model_dir", "load_epoch", "curve", "deviations", "skipped_steps", "computed")
# How a deviation ends that makes an accuracy another one than it seems.
TOO_HIGH = "the accuracy is too high"
NOT_UNSEEN = "this is not the accuracy on unseen classes"
_M = TypeVar("_M", bound="Metrics")


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """A finished run. The fields are the keys of metrics.json, in its order; ValueError for one that is out of bounds.

    Attributes:
        results: Of the last evaluation: accuracy, error_rate and macro_f1 in percent, correct, total.
        prompt: Size and error of the stored prompt; for a training run.
        pixels: How images were read: as a "viewer" shows them, or as "upstream" reads those of the benchmark.
        model_dir: Folder of the training run whose checkpoint an evaluation loaded.
        load_epoch: The epoch that was loaded; "all": each checkpoint in turn.
        curve: With load_epoch "all" the results of every checkpoint, each with its epoch.
        deviations: From the published protocol, in words.
        skipped_steps: Training steps that the gradient scaler skipped for NaN or infinite gradients.
        computed: How the run computed where the config leaves it open: the precision in use, ...
        time_s: Seconds from the start of the run to its end.
        split_sha256: Hash of all train, val and test items.
        changed: Config keys (dotted) that differ from the defaults.
        config: The whole config, nested.
    """

    finished: str = ""
    mode: str
    trainer: str
    dataset: str
    seed: int
    shots: int
    classes: str
    backbone: str = ""
    results: dict[str, Any]
    prompt: dict[str, Any] = field(default_factory=dict)
    pixels: str = ""
    model_dir: str = ""
    load_epoch: int | str | None = None
    curve: list[Any] = field(default_factory=list)
    deviations: list[Any] = field(default_factory=list)
    skipped_steps: int = 0
    computed: dict[str, Any] = field(default_factory=dict)
    time_s: float | None = None
    peak_memory_bytes: dict[str, Any] = field(default_factory=dict)
    split_sha256: str = ""
    versions: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Metrics).items():
            _check(name, getattr(self, name), kind)
        for name, value, known in (("mode", self.mode, MODES), ("classes", self.classes, CLASSES)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}, expected {', '.join(known[:-1])} or {known[-1]}")
        for key in ("payload_bytes", "fp16_kept_bytes"):
            _check(f"prompt.{key}", self.prompt.get(key), int | None)
        _check("config.DATASET.DRAW", self.draw, int)
        _check_percent("results.accuracy", self.results.get("accuracy"), float | None)
        for point in self.curve:
            _check("an entry of curve", point, dict)
            _check("curve.epoch", point.get("epoch"), int)
            _check_percent("curve.accuracy", point.get("accuracy"), float)

    @property
    def accuracy(self) -> float | None:
        """Percent; None for a run that was trained without a test."""
        return self.results.get("accuracy")

    @property
    def leaks(self) -> list[str]:
        """The deviations for which the accuracy is another one than it seems."""
        return [leak for leak in map(str, self.deviations) if leak.endswith((TOO_HIGH, NOT_UNSEEN))]

    @property
    def learns(self) -> bool:
        """False for a zero-shot run: it was evaluated, but nothing was trained for it."""
        return self.mode == "train" or bool(self.model_dir)

    @property
    def draw(self) -> int:
        """Which synthetic world; 0 for real data sets."""
        return self.flat_config.get("DATASET.DRAW", 0)

    @property
    def stored_bytes(self) -> int | None:
        """Bytes of the learned prompt: indices, levels, and in fp16 what is not quantized; zero-shot: 0."""
        stored = self.prompt.get("payload_bytes")
        if stored is None:
            return None if self.learns else 0
        return stored + (self.prompt.get("fp16_kept_bytes") or 0)

    @cached_property
    def flat_config(self) -> dict[str, Any]:
        """The whole config with dotted keys."""
        return flatten(self.config)

    @property
    def settings(self) -> RunSettings:
        """What makes this run the run that it is."""
        arguments = {"mode": self.mode, "model_dir": self.model_dir, "load_epoch": self.load_epoch}
        return RunSettings.recorded(self.flat_config, arguments, self.changed)

    @classmethod
    def from_json(cls: type[_M], data: Mapping[str, Any], **more: Any) -> _M:
        """Return the run that a JSON object describes; `more`: fields of a subclass. ValueError if it is not valid."""
        if "schema" not in data or "trainer" not in data:
            raise ValueError("it is not the record of a QPrompt run (no 'schema' and 'trainer' in it)")
        if data["schema"] != SCHEMA:
            raise ValueError(f"it has schema {data['schema']!r}, this version of qprompt reads {SCHEMA}")
        known: dict[str, Any] = {f.name: data.get(f.name) for f in fields(Metrics)}
        optional = {f.name for f in fields(Metrics) if (f.default, f.default_factory) != (MISSING, MISSING)}
        return cls(**{name: v for name, v in known.items() if v is not None or name not in optional}, **more)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `from_json` reads."""
        data = {f.name: getattr(self, f.name) for f in fields(Metrics)}
        empty = {name for name in _OPTIONAL if not data[name] and not (name == "load_epoch" and self.model_dir)}
        return {"schema": SCHEMA, **{name: value for name, value in data.items() if name not in empty}}


def read_metrics(path: Path) -> Metrics:
    """Return the run that a metrics.json describes; UserError naming the file if it is damaged or not a run's."""
    return read_as(Metrics, path)


def read_as(cls: type[_M], path: Path, **more: Any) -> _M:
    """Read a metrics.json as a subclass of `Metrics`; `more`: its other fields."""
    data = read_object(path)
    try:
        return cls.from_json(data, **more)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a valid record: {error}. Delete it if it is a leftover.") from None


def write_metrics(folder: Path, metrics: Metrics) -> Path:
    """Write ``metrics.json`` into the folder of a run, which makes it a finished run; return its path."""
    path = folder / METRICS
    write_json(path, metrics.to_json())
    return path


def _check(name: str, value: Any, kind: Any) -> None:
    if not any(_is(value, each) for each in (get_args(kind) if isinstance(kind, UnionType) else (kind,))):
        expected = str(getattr(kind, "__name__", kind)).replace("NoneType", "None")
        raise ValueError(f"{name} is {value!r}, expected {expected}")


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        # Not math.isfinite, which raises for an integer that no float can hold; NaN fails the comparison.
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    return isinstance(value, get_origin(kind) or kind)


def _check_percent(name: str, value: Any, kind: Any) -> None:
    _check(name, value, kind)
    if value is not None and not 0 <= value <= 100:
        raise ValueError(f"{name} is {value!r}, expected percent")
