"""The base of every data set here: CoOp's few-shot protocol (qprompt.data.fewshot) as a Dassl data set."""

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
    """A subclass defines ``source(cfg)``: where its items come from. Shots, seed and class subset are applied here.

    Attributes beside Dassl's: `split` (relative paths), `split_hash` (SHA-256 of its items), `image_dir`.
    """

    source: Callable[[Any], fewshot.Source]

    def __init__(self, cfg):
        source = self.source(cfg)
        own = cfg.DATASET.get  # keys of QPrompt that plain Dassl does not have
        split = fewshot.load(
            source,
            cfg.DATASET.NUM_SHOTS,
            cfg.SEED,
            own("SUBSAMPLE_CLASSES", "all"),
            write=own("WRITE_CACHE", True),
            rename=read_renames(own("CLASSNAMES")) if own("CLASSNAMES", "") else None,
        )
        self.split: Split = split
        self.split_hash = split_hash(split)
        self.image_dir = self.dataset_dir = str(source.image_dir)
        train, val, test = (_data(part, source.image_dir) for part in split)
        super().__init__(train_x=train, val=val or None, test=test)


class BenchmarkDataset(FewShotDataset):
    """A data set whose layout is known under the name of its class."""

    def source(self, cfg) -> fewshot.Source:
        return LAYOUTS[type(self).__name__].source(data_root(cfg.DATASET.ROOT))


def data_root(root: str) -> Path:
    """`root` as an absolute path; UserError when it is not a folder."""
    path = Path(root).expanduser().absolute()
    if not root or not path.is_dir():
        raise UserError(f"the data root {root!r} is no folder: --root names the folder that holds the data sets.")
    return path


def _data(items, image_dir: Path) -> list[Datum]:
    folder = str(image_dir)
    return [Datum(impath=f"{folder}/{i.path}", label=i.label, classname=i.classname) for i in items]
