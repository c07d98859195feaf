"""A data set of a few small pictures on disk, and trainers built on it with the tiny random CLIP."""

import functools
import io
from pathlib import Path

import numpy as np
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from PIL import Image

from qprompt.io.logs import show_logs
from qprompt.runs.config import merge_options
from qprompt.training.defaults import extend_cfg

CLASSES = ("cat", "big_dog", "red fire truck", "tree", "house", "traffic light")
PIXELS = 32


# Enough classes of one to four words that their prompts fill several blocks of the packed attention.
NOUNS = ("cat", "dog", "truck", "tree", "house", "boat", "flower", "chair", "clock", "traffic light")
MANY_CLASSES = tuple(f"{words}{noun}" for noun in NOUNS for words in ("", "red ", "very old ", "small painted green "))


@functools.cache
def picture(*seed):
    """A file of noise around a colour."""
    rng, file = np.random.default_rng(seed), io.BytesIO()
    pixels = rng.integers(40, 200, 3) + rng.integers(-40, 50, (PIXELS, PIXELS, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@DATASET_REGISTRY.register()
class Toy(DatasetBase):
    """Six classes of noise around a colour of their own: 4 pictures each for training, 3 for testing."""

    classes = CLASSES

    def __init__(self, cfg):
        subset, half = cfg.DATASET.SUBSAMPLE_CLASSES, len(self.classes) // 2
        classes = {"all": self.classes, "base": self.classes[:half], "new": self.classes[half:]}[subset]
        root = Path(cfg.DATASET.ROOT)
        items = {"train": [], "test": []}
        for label, name in enumerate(classes):
            for part, count in (("train", 4), ("test", 3)):
                for k in range(count):
                    path = root / f"{name.replace(' ', '_')}-{part}-{k}.png"
                    if not path.exists():
                        path.write_bytes(picture(self.classes.index(name), k, len(part)))
                    items[part].append(Datum(impath=str(path), label=label, classname=name))
        super().__init__(train_x=items["train"], val=items["test"][::2], test=items["test"])


@DATASET_REGISTRY.register()
class ManyToy(Toy):
    """`Toy` with `MANY_CLASSES`."""

    classes = MANY_CLASSES


def toy_cfg(folder, clip_file, trainer, *options):
    """A config for `trainer` in fp32 on the CPU: 3 epochs of batches of 6; `options` are KEY VALUE pairs."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    settings = {
        "TRAINER.NAME": trainer,
        "DATASET.NAME": "Toy",
        "DATASET.ROOT": str(folder),
        "OUTPUT_DIR": str(Path(folder) / "output"),
        "MODEL.BACKBONE.NAME": "ViT-B/16",
        "MODEL.BACKBONE.PATH": str(clip_file),
        "INPUT.SIZE": f"({PIXELS}, {PIXELS})",
        "INPUT.TRANSFORMS": "['normalize']",
        "DATALOADER.NUM_WORKERS": "0",
        "DATALOADER.TRAIN_X.BATCH_SIZE": "6",
        "DATALOADER.TEST.BATCH_SIZE": "5",
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": "0.02",
        "OPTIM.MAX_EPOCH": "3",
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.WARMUP_EPOCH": "1",
        "OPTIM.WARMUP_TYPE": "constant",
        "OPTIM.WARMUP_CONS_LR": "1e-3",
        "USE_CUDA": "False",
    }
    for node in ("COOP", "COCOOP", "MAPLE", "IVLP", "VPT"):
        settings[f"TRAINER.{node}.PREC"] = "fp32"
    settings |= dict(zip(options[::2], map(str, options[1::2]), strict=True))
    merge_options(cfg, [word for pair in settings.items() for word in pair])
    cfg.freeze()
    return cfg


def toy_trainer(folder, clip_file, trainer, *options, seed=1):
    """A trainer built from `toy_cfg` after seeding everything; `folder` is made if it is not there."""
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    show_logs()
    Path(folder).mkdir(parents=True, exist_ok=True)
    set_random_seed(seed)
    return build_trainer(toy_cfg(folder, clip_file, trainer, *options))
