"""A data set of small images and a trainer with one linear layer, for the tests of the engine."""

from pathlib import Path

import numpy as np
import torch
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX, TrainerXU, build_trainer
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import set_random_seed
from PIL import Image
from torch.nn import functional as F


def pictures(folder, classes=4, images=8):
    """Return `Datum`s of noisy images, `images` per class."""
    out = []
    for label in range(classes):
        for k in range(images):
            path = Path(folder) / f"{label}-{k}.png"
            if not path.exists():
                pixels = np.random.default_rng([label, k]).integers(0, 200, (20, 24, 3)) + 15 * label
                Image.fromarray(pixels.astype(np.uint8)).save(path)
            out.append(Datum(impath=str(path), label=label, domain=k % 2, classname=f"class {label}"))
    return out


@DATASET_REGISTRY.register()
class EnginePictures(DatasetBase):
    """A data set with four classes and five training images per class."""

    def __init__(self, cfg):
        items = pictures(cfg.DATASET.ROOT)
        train = self.generate_fewshot_dataset(items, num_shots=5)
        unlabelled = items if cfg.DATASET.ALL_AS_UNLABELED else None
        super().__init__(train_x=train, train_u=unlabelled, val=items[::3], test=items)


class _Linear:
    def build_model(self):
        pixels = 3 * self.cfg.INPUT.SIZE[0] * self.cfg.INPUT.SIZE[1]
        self.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.1))
        self.model.append(torch.nn.Linear(pixels, self.num_classes))
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("linear", self.model, self.optim, self.sched)
        self.seen = []

    def update(self, loss, **numbers):
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), **numbers}


@TRAINER_REGISTRY.register()
class EngineLinear(_Linear, TrainerX):
    """A linear classifier of pixels."""

    def forward_backward(self, batch):
        image, label, _ = self.parse_batch_train(batch)
        self.seen.append((batch["index"].tolist(), self.get_current_lr()))
        output = self.model(image)
        return self.update(F.cross_entropy(output, label), acc=compute_accuracy(output, label)[0].item())


@TRAINER_REGISTRY.register()
class EngineLinearXU(_Linear, TrainerXU):
    """A linear classifier of pixels that also uses unlabelled images."""

    def forward_backward(self, batch_x, batch_u):
        image, label, unlabelled = self.parse_batch_train(batch_x, batch_u)
        self.seen.append((batch_x["index"].tolist(), batch_u["index"].tolist()))
        return self.update(F.cross_entropy(self.model(image), label) + self.model(unlabelled).std())


def engine_cfg(data, output, trainer="EngineLinear", **options):
    """Return a frozen config; options are given as OPTIM__LR=0.1."""
    cfg = get_cfg_default()
    settings = {
        "DATASET__NAME": "EnginePictures",
        "DATASET__ROOT": str(data),
        "TRAINER__NAME": trainer,
        "OUTPUT_DIR": str(output),
        "SEED": 1,
        "USE_CUDA": False,
        "INPUT__SIZE": (16, 16),
        "INPUT__TRANSFORMS": ("random_resized_crop", "random_flip", "normalize"),
        "OPTIM__NAME": "sgd",
        "OPTIM__LR": 0.01,
        "OPTIM__MAX_EPOCH": 6,
        "OPTIM__LR_SCHEDULER": "cosine",
        "OPTIM__WARMUP_EPOCH": 1,
        "OPTIM__WARMUP_TYPE": "constant",
        "DATALOADER__TRAIN_X__BATCH_SIZE": 8,
        "DATALOADER__NUM_WORKERS": 0,
        "TRAIN__CHECKPOINT_FREQ": 2,
        **options,
    }
    for key, value in settings.items():
        node = cfg
        *path, last = key.split("__")
        for name in path:
            node = node[name]
        assert last in node, key
        node[last] = value
    cfg.freeze()
    return cfg


def engine_trainer(data, output, trainer="EngineLinear", **options):
    """Return a trainer that is built after seeding, as a train.py does."""
    cfg = engine_cfg(data, output, trainer, **options)
    set_random_seed(cfg.SEED)
    return build_trainer(cfg)


class Killed(Exception):
    """Simulates the end of a killed run."""


def train_until(trainer, epoch):
    """Train and stop at the start of the epoch `epoch` (from 0), as if killed."""

    def before_epoch():
        if trainer.epoch == epoch:
            raise Killed

    trainer.before_epoch = before_epoch
    try:
        trainer.train()
    except Killed:
        trainer.close_writer()
