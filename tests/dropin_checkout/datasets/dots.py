"""A data set of six colours, drawn on first use: three base and three new classes."""

import os

import numpy as np
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from PIL import Image


@DATASET_REGISTRY.register()
class Dots(DatasetBase):
    def __init__(self, cfg):
        root = os.path.join(cfg.DATASET.ROOT, "dots")
        os.makedirs(root, exist_ok=True)
        labels = {"all": range(6), "base": range(3), "new": range(3, 6)}[cfg.DATASET.SUBSAMPLE_CLASSES]
        items = []
        for new_label, label in enumerate(labels):
            for k in range(4):
                path = os.path.join(root, f"{label}-{k}.png")
                rng = np.random.default_rng([label, k])
                pixels = 40 * label + rng.integers(0, 40, (8, 8, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(path)
                items.append(Datum(path, new_label, 0, f"colour {label}"))
        super().__init__(train_x=items, val=items[::2], test=items)
