"""From a spec to runs: the command, the output folder and the run that has to finish first.

assets/protocol.yaml has the names of the folders.
"""

import dataclasses
import functools
import os
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
from qprompt.runs.project import find_file, find_project
from qprompt.runs.protocol import folder
from qprompt.sweep.grid import Choice, choices
from qprompt.sweep.spec import Spec
from qprompt.training.defaults import default_cfg
from qprompt.training.project import learns, register_project

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
        choice: The point of the grid that it belongs to.
        after: Folder of the training run that an evaluation reads, or None.
    """

    folder: str
    trainer: str
    label: str
    argv: tuple[str, ...]
    settings: RunSettings = dataclasses.field(hash=False)
    choice: Choice = dataclasses.field(hash=False, compare=False)
    after: str | None = None

    @property
    def group(self) -> tuple[str, bool]:
        """Runs with the same value take about the same time."""
        return self.trainer, self.after is not None

    def finished(self) -> Metrics | None:
        """Return its metrics if it is finished, else None; UserError if its folder holds another run."""
        return finished(Path(self.folder), self.settings)


def plan(spec: Spec) -> list[Run]:
    """Return every run of a spec, each evaluation right after the training run it needs. No file is written.

    Raises:
        UserError: A trainer, data set or config has no file, or two runs have the same folder.
    """
    activate()
    register_project(find_project())
    runs: dict[str, Run] = {}
    for choice in choices(spec):
        for run in _PROTOCOLS[spec.protocol](spec, choice):
            before = runs.setdefault(run.folder, run)
            if before.argv != run.argv:
                raise UserError(
                    f"sweep {spec.name}: two runs with different settings have the same folder {run.folder}: "
                    "give them different names under 'variants'."
                )
    return list(runs.values())


def _base2new(spec: Spec, c: Choice) -> Iterator[Run]:
    """CoCoOp's protocol: train on the first half of the classes, test on both halves."""
    trained = _folder(spec, c, "base2new_train") if learns(c.trainer) else None
    if trained:
        yield _run(spec, c, trained, "base")
    for classes in ("base", "new"):
        yield _run(spec, c, _folder(spec, c, "base2new_test", classes), classes, trained, evaluate=True)


def _few_shot(spec: Spec, c: Choice) -> Iterator[Run]:
    """CoOp's protocol: train and test on all classes."""
    yield _run(spec, c, _folder(spec, c, "all_classes")) if learns(c.trainer) else _zero_shot(spec, c)


def _cross_dataset(spec: Spec, c: Choice) -> Iterator[Run]:
    """CoCoOp's protocol: train on all classes of the source, test on other data sets (or shifted versions of it)."""
    if learns(c.trainer):
        trained = _folder(spec, c, "all_classes")
        yield _run(spec, c, trained)
        for target in map(c.at, spec.datasets):
            yield _run(spec, target, _folder(spec, target, "cross_dataset"), "all", trained, evaluate=True)
    else:
        for dataset in (c.dataset, *spec.datasets):
            yield _zero_shot(spec, c.at(dataset))


_PROTOCOLS: dict[str, Callable[[Spec, Choice], Iterator[Run]]] = {
    "base2new": _base2new,
    "few_shot": _few_shot,
    "cross_dataset": _cross_dataset,
}


def _zero_shot(spec: Spec, c: Choice) -> Run:
    # Shots and seed have no effect, so fixed ones let all sweeps share this run.
    c = dataclasses.replace(c, shots=_ANY_SHOTS, seed=1)
    return _run(spec, c, _folder(spec, c, "zero_shot"), evaluate=True)


def _folder(spec: Spec, c: Choice, name: str, classes: str = "all") -> str:
    values = {"output": spec.output, "dataset": c.dataset, "shots": c.shots, "trainer": c.trainer, "cfg": c.cfg}
    return folder(name, c.variant, **values, seed=c.seed, classes=classes)


def _run(
    spec: Spec, c: Choice, output: str, classes: str = "all", trained: str | None = None, evaluate: bool = False
) -> Run:
    files = _config_files(spec, c)
    options = _options(spec, c, classes)
    cfg = _from_files(c.trainer, *map(os.path.abspath, files)).clone()
    for key, value in {"SEED": c.seed, "TRAINER.NAME": c.trainer, **options}.items():
        config.set_key(cfg, key, CfgNode._decode_cfg_value(str(value)), f"sweep {spec.name}")
    epoch = None
    if trained:
        epoch = cfg.OPTIM.MAX_EPOCH if spec.load_epoch == "last" else spec.load_epoch

    root = spec.root or os.environ.get("DATA", "")
    argv = ["--root", root] if root else []
    argv += ["--seed", str(c.seed), "--trainer", c.trainer]
    argv += ["--dataset-config-file", files[0], "--config-file", files[1], "--output-dir", output]
    argv += ["--eval-only"] if evaluate else []
    argv += ["--model-dir", trained, "--load-epoch", str(epoch)] if trained else []
    argv += [word for key, value in options.items() for word in (key, str(value))]

    parts = [c.trainer, c.cfg, c.variant, str(c.dataset), f"{c.shots} shots", f"seed {c.seed}"]
    label = f"{' '.join(filter(None, parts))}: {'test' if evaluate else 'train'} {classes}"
    settings = RunSettings.of(cfg, _defaults(), "eval" if evaluate else "train", trained or "", epoch)
    return Run(output, c.trainer, label, tuple(argv), settings, c, trained)


def _options(spec: Spec, c: Choice, classes: str) -> dict[str, Any]:
    options = _SETTINGS | spec.settings | c.settings
    if c.dataset.draw is not None:
        options["DATASET.DRAW"] = c.dataset.draw
    return options | {"DATASET.NUM_SHOTS": c.shots, "DATASET.SUBSAMPLE_CLASSES": classes}


def _config_files(spec: Spec, c: Choice) -> tuple[str, str]:
    """The config files of the data set and of the trainer."""
    dataset_file = _file(find_file(Path(spec.configs) / "datasets" / f"{c.dataset.name}.yaml"), "data set config")
    # Upstream's zero-shot script reads CoOp's configs: so does a zero-shot trainer that has no config.
    names = [c.trainer] if learns(c.trainer) else [c.trainer, "CoOp"]
    files = [find_file(Path(spec.configs) / "trainers" / name / f"{c.cfg}.yaml") for name in names]
    trainer_file = _file(next((f for f in files if f.is_file()), files[0]), f"config of {c.trainer}")
    return str(dataset_file), str(trainer_file)


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
