"""The base classes of the data sets: CoOp's few-shot protocol (`qprompt.data.fewshot`) as a Dassl data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dassl.data.datasets import DatasetBase, Datum

from qprompt.data import fewshot
from qprompt.data.class_names import read_renames
from qprompt.data.items import Split, split_hash
from qprompt.data.layouts import LAYOUTS
from qprompt.errors import UserError


class FewShotDataset(DatasetBase):
    """A data set with few-shot sampling and class subsets.

    A subclass defines ``source(cfg)``, which returns the `Source` of its items.

    Attributes:
        split: The items, with paths relative to `image_dir`.
        split_hash: The SHA-256 of `split`.
        image_dir: The image folder.
    """

    source: Callable[[Any], fewshot.Source]

    def __init__(self, cfg):
        source = self.source(cfg)
        option = cfg.DATASET.get  # Dassl's own config does not have these keys
        split = fewshot.load(
            source,
            cfg.DATASET.NUM_SHOTS,
            cfg.SEED,
            option("SUBSAMPLE_CLASSES", "all"),
            write=option("WRITE_CACHE", True),
            rename=read_renames(option("CLASSNAMES")) if option("CLASSNAMES", "") else None,
        )
        self.split: Split = split
        self.split_hash = split_hash(split)
        self.image_dir = self.dataset_dir = str(source.image_dir)
        train, val, test = (_datums(part, source.image_dir) for part in split)
        super().__init__(train_x=train, val=val or None, test=test)


class BenchmarkDataset(FewShotDataset):
    """A data set of the benchmark: the name of the class is the name of its `Layout`."""

    def source(self, cfg) -> fewshot.Source:
        return LAYOUTS[type(self).__name__].source(data_root(cfg.DATASET.ROOT))


def data_root(root: str) -> Path:
    """Return the data root as an absolute path.

    Raises:
        UserError: It is not a folder.
    """
    path = Path(root).expanduser().absolute()
    if not root or not path.is_dir():
        raise UserError(f"the data root {root!r} is not a folder: --root expects the folder that holds the data sets.")
    return path


def _datums(items, image_dir: Path) -> list[Datum]:
    folder = str(image_dir)
    return [Datum(impath=f"{folder}/{i.path}", label=i.label, classname=i.classname) for i in items]
