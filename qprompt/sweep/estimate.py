"""Estimates of the time and disk that runs need, from assets/costs.yaml and from runs that have finished."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from qprompt.data.items import Split
from qprompt.data.layouts import Layout
from qprompt.sweep.plan import Run
from qprompt.sweep.slots import Slot


@cache
def costs() -> dict[str, Any]:
    """Return the content of assets/costs.yaml."""
    return yaml.safe_load(resources.files("qprompt").joinpath("assets/costs.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Size:
    """Half of a data set (its base or its new classes).

    Attributes:
        classes: Number of classes.
        train: Number of few-shot training images.
        test: Number of test images.
    """

    classes: int
    train: int
    test: int


def sizes_of(split: Split, shots: int) -> dict[str, Size]:
    """Return the sizes of the base and new classes of a data set."""
    train, test = (Counter(item.label for item in part) for part in (split.train, split.test))
    labels = sorted(train)
    middle = math.ceil(len(labels) / 2)
    halves = {"base": labels[:middle], "new": labels[middle:]}
    return {
        name: Size(len(half), sum(min(shots, train[label]) for label in half), sum(test[label] for label in half))
        for name, half in halves.items()
    }


def published_sizes(layout: Layout, shots: int) -> dict[str, Size]:
    """Return the sizes of a data set that is not there, from its published numbers."""
    base = math.ceil(layout.classes / 2)
    return {
        name: Size(classes, classes * shots, round(layout.test * classes / layout.classes))
        for name, classes in (("base", base), ("new", layout.classes - base))
    }


@dataclass(frozen=True)
class Device:
    """What runs run on.

    Attributes:
        name: Of the GPU, or "CPU".
        speed: Relative to the core of costs.yaml.
        cores: CPU cores of each run.
        slots: Number of runs in parallel.
    """

    name: str
    speed: float
    cores: int
    slots: int

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.name != "CPU"


def device_of(slots: Sequence[Slot]) -> Device:
    """Return the device of the slots of a sweep."""
    cores = slots[0].threads
    if not slots[0].gpu:
        return Device("CPU", cores, cores, len(slots))
    import torch

    name = torch.cuda.get_device_name(0)
    speed = next((speed for known, speed in costs()["speed"].items() if known in name), costs()["other"])
    shared = len(slots) / len({slot.gpu for slot in slots})
    return Device(name, speed / shared, cores, len(slots))


class Estimator:
    """Estimates the seconds of runs.

    Args:
        sizes: Sizes of the base and new classes, by the name of the data set in configs.
        device: What the runs run on.
    """

    def __init__(self, sizes: Mapping[str, Mapping[str, Size]], device: Device):
        self.sizes, self.device = sizes, device
        self.factor = 1.0
        self.timed = 0

    def calibrate(self, runs: Iterable[Run]) -> None:
        """Scale all estimates by the times of finished runs on this device."""
        seen: set[tuple] = set()
        measured = estimated = 0.0
        self.factor, self.timed = 1.0, 0
        for run in runs:
            done = run.finished()
            if done is None:
                continue
            expected = self._seconds(run, seen)
            if done.time_s is not None and done.hardware.get("gpu", "CPU") == self.device.name:
                measured, estimated, self.timed = measured + done.time_s, estimated + expected, self.timed + 1
        if self.timed:
            self.factor = measured / estimated

    def seconds(self, runs: Iterable[Run], seen: set[tuple]) -> float:
        """Return the seconds of runs one after the other.

        Args:
            runs: The runs.
            seen: Which image features have been cached; extended by those that these runs cache.
        """
        return self.factor * sum(self._seconds(run, seen) for run in runs)

    def _seconds(self, run: Run, seen: set[tuple]) -> float:
        config, choice = run.settings.config, run.choice
        dataset, classes = str(choice.dataset), config["DATASET.SUBSAMPLE_CLASSES"]
        size, core = self.sizes[dataset][classes], costs()["core"]
        both = _plain(run.trainer) in costs()["both_branches"]
        test = 0.0 if not both and (dataset, classes) in seen else self._encode(size.test)
        seen.add((dataset, classes))
        if run.settings.arguments["mode"] != "train":
            return costs()["start"] + test
        epochs, batch = config["OPTIM.MAX_EPOCH"], config["DATALOADER.TRAIN_X.BATCH_SIZE"]
        step = size.classes * core["text"] / self.device.speed
        views = 0.0
        if both:
            step += batch * costs()["backward"] * core["image"] / self.device.speed
            step = max(step, batch * core["prepared"] / self.device.cores)
        elif (key := (dataset, choice.seed, epochs)) not in seen:
            seen.add(key)
            views = self._encode(epochs * size.train)
        if self.device.is_gpu:
            step = max(step, costs()["shortest_step"]["both_branches" if both else "text_only"])
        return costs()["start"] + test + views + epochs * max(1, size.train // batch) * step

    def _encode(self, images: int) -> float:
        """Seconds to prepare images on the CPU and to encode them, which overlap on a GPU."""
        prepared = images * costs()["core"]["prepared"] / self.device.cores
        encoded = images * costs()["core"]["image"] / self.device.speed
        return max(prepared, encoded) if self.device.is_gpu else prepared + encoded


def bytes_on_disk(runs: Iterable[Run]) -> int:
    """Return the bytes that runs write to their output folders."""
    numbers = {name: 8 * count for name, count in costs()["trained"].items()}
    return sum(
        costs()["logs"] + (numbers[_plain(run.trainer)] if run.settings.arguments["mode"] == "train" else 0)
        for run in runs
    )


def feature_bytes(runs: Sequence[Run]) -> int:
    """Return the most that cached image features take below the data root."""
    return max((int(run.settings.config.get("FEATURE_CACHE_MB", 2000)) for run in runs), default=0) * 10**6


def _plain(trainer: str) -> str:
    return trainer.removeprefix("Q")
