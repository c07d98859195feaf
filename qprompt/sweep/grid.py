"""The points of a sweep's grid: trainers x data sets x shots x seeds x settings."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any

from qprompt.sweep.spec import Dataset, Spec
from qprompt.training.project import learns


@dataclasses.dataclass(frozen=True)
class Choice:
    """One point of the grid, seed included."""

    trainer: str
    variant: str
    settings: dict[str, Any]
    dataset: Dataset
    shots: int
    seed: int
    cfg: str

    def at(self, dataset: Dataset) -> "Choice":
        return dataclasses.replace(self, dataset=dataset)


def choices(spec: Spec) -> Iterator[Choice]:
    """Yield every point of the grid; a zero-shot trainer only with the first seed and number of shots."""
    variants = list(_variants(spec))
    datasets = (spec.source,) if spec.source else spec.datasets
    for dataset, shots, seed in itertools.product(datasets, spec.shots, spec.seeds):
        for trainer in (*spec.baselines, *spec.trainers):
            if not learns(trainer) and (seed != spec.seeds[0] or shots != spec.shots[0]):
                continue
            cfg = spec.config_name(trainer, dataset, shots)
            for name, settings in variants if trainer in spec.trainers else [("", {})]:
                yield Choice(trainer, name, settings, dataset, shots, seed, cfg)


def _variants(spec: Spec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every variant times every point of the grid, as (name of the folder, settings)."""
    for name, settings in (spec.variants or {"": {}}).items():
        for values in itertools.product(*spec.grid.values()):
            point = dict(zip(spec.grid, values, strict=True))
            parts = [f"{key.rpartition('.')[2].lower()}{_for_folder(value)}" for key, value in point.items()]
            yield "_".join([name] * bool(name) + parts), settings | point


def _for_folder(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = "-".join(map(str, value))
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", str(value)).strip("-") or "none"
