"""``TrainerX`` and ``TrainerXU``, which methods derive from: training with labelled (and unlabelled) data."""

import itertools

# Trainers import these from here, as from Dassl's module.
from ..data import DataManager  # noqa: F401
from ..evaluation import build_evaluator  # noqa: F401
from ..modeling import build_backbone, build_head  # noqa: F401
from ..optim import build_lr_scheduler, build_optimizer  # noqa: F401
from ..utils import (  # noqa: F401
    AverageMeter,
    MetricMeter,
    count_num_param,
    load_checkpoint,
    load_pretrained_weights,
    mkdir_if_missing,
    resume_from_checkpoint,
    save_checkpoint,
    tolist_if_not,
)
from .simple_trainer import SimpleNet, SimpleTrainer
from .trainer_base import TrainerBase

__all__ = ["SimpleNet", "SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU"]


class TrainerX(SimpleTrainer):
    """A trainer for labelled data."""

    def run_epoch(self):
        """Train one epoch: one pass over the training loader."""
        self.num_batches = len(self.train_loader_x)
        self._run_batches((batch,) for batch in self.train_loader_x)

    def parse_batch_train(self, batch):
        """Return the images, labels and domains of a batch on the device."""
        return tuple(batch[key].to(self.device, non_blocking=True) for key in ("img", "label", "domain"))


class TrainerXU(SimpleTrainer):
    """A trainer for labelled and unlabelled data."""

    def run_epoch(self):
        """Train one epoch with the length TRAIN.COUNT_ITER. The shorter loader starts again when it ends."""
        lengths = {"train_x": len(self.train_loader_x), "train_u": len(self.train_loader_u)}
        lengths["smaller_one"] = min(lengths.values())
        if self.cfg.TRAIN.COUNT_ITER not in lengths:
            raise ValueError(f"TRAIN.COUNT_ITER must be one of {list(lengths)}, got {self.cfg.TRAIN.COUNT_ITER}")
        self.num_batches = lengths[self.cfg.TRAIN.COUNT_ITER]
        pairs = zip(_endless(self.train_loader_x), _endless(self.train_loader_u), strict=False)
        self._run_batches(itertools.islice(pairs, self.num_batches))

    def parse_batch_train(self, batch_x, batch_u):  # type: ignore[override]  # Dassl's signature
        """Return labelled images, their labels and unlabelled images on the device."""
        return (
            batch_x["img"].to(self.device, non_blocking=True),
            batch_x["label"].to(self.device, non_blocking=True),
            batch_u["img"].to(self.device, non_blocking=True),
        )


def _endless(loader):
    """Yield the batches of `loader` repeatedly. The first pass starts, and draws its seed, at the call, as in Dassl."""
    first = iter(loader)

    def batches():
        yield from first
        while True:
            yield from loader

    return batches()


def __getattr__(name):
    if name == "SummaryWriter":  # takes a second to import
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
