"""The arms of ``qprompt reproduce`` (assets/reproduce.yaml) and their runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import yaml

from qprompt.sweep.plan import Run, plan
from qprompt.sweep.spec import Dataset, Spec, read_spec

_SPECS = "configs/sweeps/paper/{}.yaml"
_MAIN = "base2new"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One method of the report: a trainer and variant of a spec. Runs of lower tiers come first."""

    name: str
    tier: int
    spec: str
    trainer: str
    variant: str = ""


@cache
def arms() -> tuple[Arm, ...]:
    """Return the arms in the order of the report."""
    text = resources.files("qprompt").joinpath("assets/reproduce.yaml").read_text(encoding="utf-8")
    return tuple(Arm(**arm) for arm in yaml.safe_load(text)["arms"])


def dataset_names() -> list[str]:
    """Return the data sets of the benchmark, by the names of their configs."""
    return [str(dataset) for dataset in read_spec(_SPECS.format(_MAIN)).datasets]


def main_spec(**changes: Any) -> Spec:
    """Return the spec that stands for all runs: its name, output folder and train.py."""
    return dataclasses.replace(read_spec(_SPECS.format(_MAIN)), name="reproduce", **changes)


def plan_arms(
    root: str, output: str, datasets: Sequence[str], seeds: Sequence[int], settings: Mapping[str, Any]
) -> dict[str, list[Run]]:
    """Return the runs of every arm, by its name. Two arms may share a run.

    Args:
        root: The data root.
        output: The output folder.
        datasets: Names of data sets' configs.
        seeds: The seeds.
        settings: Config keys for all runs.

    Raises:
        UserError: A spec or config is not there or not valid.
    """
    chosen = tuple(Dataset(name) for name in datasets)
    found: dict[str, list[Run]] = {}
    planned: dict[str, list[Run]] = {}
    for arm in arms():
        if arm.spec not in planned:
            spec = read_spec(_SPECS.format(arm.spec))
            changes: dict[str, Any] = {"root": root, "output": output, "datasets": chosen, "seeds": tuple(seeds)}
            planned[arm.spec] = plan(dataclasses.replace(spec, settings=spec.settings | dict(settings), **changes))
        found[arm.name] = [r for r in planned[arm.spec] if (r.trainer, r.choice.variant) == (arm.trainer, arm.variant)]
    return found
