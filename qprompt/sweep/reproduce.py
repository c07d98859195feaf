"""The plan of ``qprompt reproduce``: the runs of its arms in order, which of them fit the time, and what is missing."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from qprompt.errors import UserError
from qprompt.sweep import preflight
from qprompt.sweep.arms import arms
from qprompt.sweep.estimate import (
    Device,
    Estimator,
    Size,
    bytes_on_disk,
    device_of,
    feature_bytes,
    published_sizes,
    sizes_of,
)
from qprompt.sweep.plan import Run
from qprompt.sweep.slots import Slot


@dataclasses.dataclass
class Block:
    """The runs of one tier on one data set with one seed. They are compared with each other: all or none are run."""

    seed: int
    tier: int
    dataset: str
    runs: list[Run] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


def blocks(by_arm: Mapping[str, Sequence[Run]], estimator: Estimator) -> list[Block]:
    """Return all runs once, in the order in which they tell most.

    Seed 1 of all data sets comes before seed 2, since claims are tested over data sets. Within a seed the main methods
    come first, and data sets that take less time.
    """
    found: dict[tuple[int, int, str], Block] = {}
    taken: set[str] = set()
    for arm in sorted(arms(), key=lambda arm: arm.tier):
        for run in by_arm[arm.name]:
            if run.folder not in taken:
                taken.add(run.folder)
                key = (run.choice.seed, arm.tier, str(run.choice.dataset))
                found.setdefault(key, Block(*key)).runs.append(run)
    cheap = {d: estimator.seconds((r for b in found.values() if b.dataset == d for r in b.runs), set())
             for d in {b.dataset for b in found.values()}}  # fmt: skip
    return sorted(found.values(), key=lambda block: (block.seed, block.tier, cheap[block.dataset], block.dataset))


def fitting(ordered: Sequence[Block], estimator: Estimator, seconds: float | None) -> tuple[list[Block], list[Block]]:
    """Return the blocks that fit the time, and those left out. Sets the estimated seconds of each block.

    A block that does not fit is left out, and later ones that do are taken. Finished runs take no time.

    Args:
        ordered: The blocks in order.
        estimator: Estimates the time of runs.
        seconds: The time on one slot; None: everything is taken.

    Raises:
        UserError: Not one block fits.
    """
    seen: set[tuple] = set()
    chosen: list[Block] = []
    left: list[Block] = []
    total = 0.0
    for block in ordered:
        with_it = set(seen)
        block.seconds = estimator.seconds([run for run in block.runs if run.finished() is None], with_it)
        if seconds is None or total + block.seconds <= seconds:
            total, seen = total + block.seconds, with_it
            chosen.append(block)
        else:
            left.append(block)
    if not chosen:
        least = min(block.seconds for block in left) / estimator.device.slots / 3600
        raise UserError(f"nothing fits this time: the shortest part takes about {least:.2f} hours. Give more --hours.")
    return chosen, left


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will run, and what it needs.

    Attributes:
        chosen: The blocks to run, in order.
        left: The blocks that do not fit the time.
        problems: What is missing, each with what to type.
        estimator: Of the times.
    """

    chosen: list[Block]
    left: list[Block]
    problems: list[str]
    estimator: Estimator

    @property
    def runs(self) -> list[Run]:
        """The runs, finished ones included."""
        return [run for block in self.chosen for run in block.runs]

    def lines(self) -> list[str]:
        """Return the plan in words: a line per seed and tier, then the sums."""
        runs, device = self.runs, self.estimator.device
        done = sum(run.finished() is not None for run in runs)
        disk = bytes_on_disk(run for run in runs if run.finished() is None)
        lines = ["Runs, in this order:"]
        for seed, tier in dict.fromkeys((b.seed, b.tier) for b in (*self.chosen, *self.left)):
            chosen, left = ([b for b in part if (b.seed, b.tier) == (seed, tier)] for part in (self.chosen, self.left))
            methods = "; ".join(arm.name for arm in arms() if arm.tier == tier)
            count = sum(len(block.runs) for block in chosen)
            lines += [f"  seed {seed}: {methods}", f"    {count} runs, {_hours(chosen, device)}: {_names(chosen)}"]
            lines += [f"    left out, {_hours(left, device)}: {_names(left)}"] * bool(left)
        lines += [
            "",
            f"{len(runs)} runs, {done} of them finished; {_hours(self.chosen, device)} on {device.name}, "
            f"{device.slots} at a time.",
            f"The time is an estimate, scaled by the times of {self.estimator.timed} runs that have finished here."
            if self.estimator.timed
            else "The time is an estimate that no run here has confirmed: it scales what was measured on one CPU core "
            "by the speed of the device (qprompt/assets/costs.yaml). Later plans use the times of finished runs.",
            f"Disk: about {disk / 1e9:.2f} GB of results, and up to {feature_bytes(runs) / 1e9:.1f} GB of image "
            "features below the data root.",
        ]
        return lines


def _hours(found: Sequence[Block], device: Device) -> str:
    return f"about {sum(block.seconds for block in found) / device.slots / 3600:.1f} h"


def _names(found: Sequence[Block]) -> str:
    return " ".join(block.dataset for block in found) or "none"


def make_plan(
    by_arm: Mapping[str, Sequence[Run]],
    root: Path,
    output: Path,
    hours: float | None,
    slots: Sequence[Slot],
) -> Plan:
    """Check data, weights and disk, and choose what runs.

    Args:
        by_arm: The runs of every arm.
        root: The data root.
        output: The output folder.
        hours: The time that the runs may take on all slots together; None: no limit.
        slots: Where they run.
    """
    runs = [run for found in by_arm.values() for run in found]
    shots, config = runs[0].choice.shots, runs[0].settings.config
    sizes: dict[str, dict[str, Size]] = {}
    problems: list[str] = []
    for name, layout in preflight.layouts_of(runs).items():
        errors, split = preflight.check_data(root, layout)
        problems += errors
        sizes[name] = sizes_of(split, shots) if split else published_sizes(layout, shots)
    problems += preflight.check_weights(config["MODEL.BACKBONE.NAME"], config["MODEL.BACKBONE.PATH"])
    estimator = Estimator(sizes, device_of(slots))
    ordered = blocks(by_arm, estimator)
    estimator.calibrate(run for block in ordered for run in block.runs)
    chosen, left = fitting(ordered, estimator, None if hours is None else hours * 3600 * len(slots))
    unfinished = [run for block in chosen for run in block.runs if run.finished() is None]
    problems += preflight.check_disk(output, bytes_on_disk(unfinished))
    return Plan(chosen, left, problems, estimator)
