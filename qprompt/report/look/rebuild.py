"""Rebuild the trainer of a finished run from its metrics.json, with its prompt loaded."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qprompt.data.images import pixels_of
from qprompt.errors import UserError
from qprompt.io.logs import LOGGER
from qprompt.report.records import Run

# Set here and not taken from the run: the run's folder must not change.
_OURS = ("OUTPUT_DIR", "RESUME", "DATASET.ROOT", "DATASET.WRITE_CACHE", "DATASET.SUBSAMPLE_CLASSES", "VERBOSE")


@dataclass
class Predictions:
    """Predictions for all test images, in the order of the data set. N images, C classes."""

    classnames: list[str]
    paths: list[str]
    labels: Tensor  # (N,) int64
    probabilities: Tensor  # (N, C) float32
    pixels: str = "viewer"  # how the images are read (`qprompt.data.images`)

    @property
    def predicted(self) -> Tensor:
        """Labels of the predicted classes, (N,) int64."""
        return self.probabilities.argmax(dim=1)

    @property
    def correct(self) -> Tensor:
        """Whether each prediction is correct, (N,) bool."""
        return self.predicted == self.labels


def rebuild(run: Run, classes: str = "", root: str = "") -> Any:
    """Return the trainer of a run with the prompt that it trained or evaluated. Output is suppressed.

    Args:
        run: The run.
        classes: base, new or all instead of the run's classes.
        root: Another data root.

    Raises:
        UserError: The trainer, the data, the backbone or the checkpoint does not exist.
    """
    from qprompt.engine import activate
    from qprompt.runs.project import find_project
    from qprompt.training.project import register_project

    activate()
    register_project(find_project())
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    cfg = _config(run, classes, root)
    model_dir = str(run.folder) if run.mode == "train" else run.model_dir
    try:
        with tempfile.TemporaryDirectory() as scratch, _quiet():
            cfg.defrost()
            cfg.OUTPUT_DIR = scratch
            cfg.freeze()
            if cfg.SEED >= 0:
                set_random_seed(cfg.SEED)
            trainer = build_trainer(cfg)
            if model_dir:
                trainer.load_model(model_dir, epoch=run.loaded_epoch or cfg.OPTIM.MAX_EPOCH)
            trainer.set_model_mode("eval")
    except FileNotFoundError as error:
        raise UserError(f"{run.folder}: {error}. If the data has moved, type --root DATA.") from None
    return trainer


@torch.no_grad()
def predict(trainer: Any) -> Predictions:
    """Return the predictions of a trainer for its test set."""
    logits, labels = [], []
    with _quiet():
        for batch in trainer.test_loader:
            image, label = trainer.parse_batch_test(batch)
            logits.append(trainer.model_inference(image).float().cpu())
            labels.append(label.cpu())
    names = trainer.lab2cname
    return Predictions(
        [names[label] for label in sorted(names)],
        [item.impath for item in trainer.dm.dataset.test],
        torch.cat(labels),
        torch.cat(logits).softmax(dim=1),
        pixels_of(trainer.cfg.DATASET.NAME),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what Dassl prints, and log messages below WARNING."""
    logger = logging.getLogger(LOGGER)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _config(run: Run, classes: str, root: str) -> Any:
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    from qprompt.runs import config
    from qprompt.training.defaults import default_cfg

    cfg = default_cfg()
    known = set(config.keys(cfg))
    for key, value in run.flat_config.items():
        if key in known and key not in _OURS:
            config.set_key(cfg, key, value, str(run.folder))
    cfg.DATASET.WRITE_CACHE = False
    cfg.DATASET.SUBSAMPLE_CLASSES = classes or run.classes
    cfg.DATASET.ROOT = root or run.flat_config.get("DATASET.ROOT", "")
    for registry, name in ((TRAINER_REGISTRY, cfg.TRAINER.NAME), (DATASET_REGISTRY, cfg.DATASET.NAME)):
        if name not in registry.registered_names():
            raise UserError(f"{run.folder} is a run of {name!r}, which this checkout does not have.")
    return cfg
