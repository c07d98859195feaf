"""From a spec to runs: the command, the output folder and the run that has to finish first.

assets/protocol.yaml has the names of the folders.
"""

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from qprompt.engine import activate
from qprompt.errors import UserError, did_you_mean
from qprompt.runs import config
from qprompt.runs.folder import finished
from qprompt.runs.identity import RunSettings
from qprompt.runs.metrics import Metrics
from qprompt.sweep.protocol import folder
from qprompt.sweep.spec import Dataset, Spec
from qprompt.training.defaults import default_cfg
from qprompt.training.project import find_project, learns, register_project

# Shots of zero-shot runs: few, so that no data set reads all its training images.
_ANY_SHOTS = 16
# Exact, and runs with the same seed share the features of their training images.
_SETTINGS = {"FEATURE_CACHE": "epochs"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One ``train.py`` process.

    Attributes:
        folder: Its output folder.
        argv: Its command line.
        settings: What train.py will make of the files, flags and options on the command line.
        after: Folder of the training run that an evaluation reads, or None.
    """

    folder: str
    trainer: str
    label: str
    argv: tuple[str, ...]
    settings: RunSettings = dataclasses.field(hash=False)
    after: str | None = None

    @property
    def group(self) -> tuple[str, bool]:
        """Runs with the same value take about the same time."""
        return self.trainer, self.after is not None

    def finished(self) -> Metrics | None:
        """Return its metrics if it is finished, else None; UserError if its folder holds another run."""
        return finished(Path(self.folder), self.settings)


@dataclasses.dataclass(frozen=True)
class _Choice:
    """One point of the grid, seed included."""

    trainer: str
    variant: str
    settings: dict[str, Any]
    dataset: Dataset
    shots: int
    seed: int
    cfg: str

    def at(self, dataset: Dataset) -> "_Choice":
        return dataclasses.replace(self, dataset=dataset)


def plan(spec: Spec) -> list[Run]:
    """Return every run of a spec, each evaluation right after the training run it needs. No file is written.

    Raises:
        UserError: A trainer, data set or config has no file, or two runs have the same folder.
    """
    activate()
    register_project(find_project())
    runs: dict[str, Run] = {}
    for choice in _choices(spec):
        for run in _PROTOCOLS[spec.protocol](spec, choice):
            before = runs.setdefault(run.folder, run)
            if before.argv != run.argv:
                raise UserError(
                    f"sweep {spec.name}: two runs with different settings have the same folder {run.folder}: "
                    "give them different names under 'variants'."
                )
    return list(runs.values())


def _choices(spec: Spec) -> Iterator[_Choice]:
    variants = list(_variants(spec))
    datasets = (spec.source,) if spec.source else spec.datasets
    for dataset, shots, seed in itertools.product(datasets, spec.shots, spec.seeds):
        for trainer in (*spec.baselines, *spec.trainers):
            if not learns(trainer) and (seed != spec.seeds[0] or shots != spec.shots[0]):
                continue
            cfg = spec.config_name(trainer, dataset, shots)
            for name, settings in variants if trainer in spec.trainers else [("", {})]:
                yield _Choice(trainer, name, settings, dataset, shots, seed, cfg)


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


def _base2new(spec: Spec, c: _Choice) -> Iterator[Run]:
    """CoCoOp's protocol: train on the first half of the classes, test on both halves."""
    trained = _folder(spec, c, "base2new_train") if learns(c.trainer) else None
    if trained:
        yield _run(spec, c, trained, "base")
    for classes in ("base", "new"):
        yield _run(spec, c, _folder(spec, c, "base2new_test", classes), classes, trained, evaluate=True)


def _few_shot(spec: Spec, c: _Choice) -> Iterator[Run]:
    """CoOp's protocol: train and test on all classes."""
    yield _run(spec, c, _folder(spec, c, "all_classes")) if learns(c.trainer) else _zero_shot(spec, c)


def _cross_dataset(spec: Spec, c: _Choice) -> Iterator[Run]:
    """CoCoOp's protocol: train on all classes of the source, test on other data sets (or shifted versions of it)."""
    if learns(c.trainer):
        trained = _folder(spec, c, "all_classes")
        yield _run(spec, c, trained)
        for target in map(c.at, spec.datasets):
            yield _run(spec, target, _folder(spec, target, "cross_dataset"), "all", trained, evaluate=True)
    else:
        for dataset in (c.dataset, *spec.datasets):
            yield _zero_shot(spec, c.at(dataset))


_PROTOCOLS: dict[str, Callable[[Spec, _Choice], Iterator[Run]]] = {
    "base2new": _base2new,
    "few_shot": _few_shot,
    "cross_dataset": _cross_dataset,
}


def _zero_shot(spec: Spec, c: _Choice) -> Run:
    # Shots and seed have no effect, so fixed ones let all sweeps share this run.
    c = dataclasses.replace(c, shots=_ANY_SHOTS, seed=1)
    return _run(spec, c, _folder(spec, c, "zero_shot"), evaluate=True)


def _folder(spec: Spec, c: _Choice, name: str, classes: str = "all") -> str:
    values = {"output": spec.output, "dataset": c.dataset, "shots": c.shots, "trainer": c.trainer, "cfg": c.cfg}
    return folder(name, c.variant, **values, seed=c.seed, classes=classes)


def _run(
    spec: Spec, c: _Choice, output: str, classes: str = "all", trained: str | None = None, evaluate: bool = False
) -> Run:
    dataset_file = _file(Path(spec.configs) / "datasets" / f"{c.dataset.name}.yaml", "data set config")
    # Upstream's zero-shot script reads CoOp's configs: so does a zero-shot trainer that has no config.
    names = [c.trainer] if learns(c.trainer) else [c.trainer, "CoOp"]
    files = [Path(spec.configs) / "trainers" / name / f"{c.cfg}.yaml" for name in names]
    trainer_file = _file(next((f for f in files if f.is_file()), files[0]), f"config of {c.trainer}")

    options = _SETTINGS | spec.settings | c.settings
    if c.dataset.draw is not None:
        options["DATASET.DRAW"] = c.dataset.draw
    options["DATASET.NUM_SHOTS"] = c.shots
    options["DATASET.SUBSAMPLE_CLASSES"] = classes
    cfg = _from_files(c.trainer, str(dataset_file), str(trainer_file)).clone()
    for key, value in {"SEED": c.seed, "TRAINER.NAME": c.trainer, **options}.items():
        config.set_key(cfg, key, CfgNode._decode_cfg_value(str(value)), f"sweep {spec.name}")

    argv = ["--seed", str(c.seed), "--trainer", c.trainer]
    argv += ["--dataset-config-file", str(dataset_file), "--config-file", str(trainer_file), "--output-dir", output]
    root = spec.root or os.environ.get("DATA", "")
    if root:
        argv = ["--root", root, *argv]
    epoch = None
    if evaluate:
        argv += ["--eval-only"]
    if trained:
        epoch = cfg.OPTIM.MAX_EPOCH if spec.load_epoch == "last" else spec.load_epoch
        argv += ["--model-dir", trained, "--load-epoch", str(epoch)]
    argv += [word for key, value in options.items() for word in (key, str(value))]

    what = f"test {classes}" if evaluate else f"train {classes}"
    label = " ".join(filter(None, [c.trainer, c.cfg, c.variant, str(c.dataset), f"{c.shots} shots", f"seed {c.seed}"]))
    settings = RunSettings.of(cfg, _defaults(), "eval" if evaluate else "train", trained or "", epoch)
    return Run(output, c.trainer, f"{label}: {what}", tuple(argv), settings, trained)


def _file(path: Path, what: str) -> Path:
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.yaml"))
        if not there and path.parent.parent.is_dir():
            beside = sorted(p.name for p in path.parent.parent.iterdir() if p.is_dir())
            raise UserError(f"no configs in {path.parent}.{did_you_mean(path.parent.name, beside)}")
        raise UserError(f"no {what} {str(path)!r}.{did_you_mean(path.stem, there)}")
    return path


@functools.cache
def _defaults() -> CfgNode:
    return default_cfg()


@functools.cache
def _from_files(trainer: str, dataset_file: str, trainer_file: str) -> CfgNode:
    cfg = default_cfg(trainer)
    config.merge_file(cfg, dataset_file)
    config.merge_file(cfg, trainer_file)
    return cfg
