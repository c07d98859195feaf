"""The base of every data set here: CoOp's few-shot protocol (qprompt.data.fewshot) as a Dassl data set."""

from pathlib import Path

from dassl.data.datasets import DatasetBase, Datum

from qprompt.data import fewshot
from qprompt.data.items import Split, split_hash
from qprompt.errors import UserError


class FewShotDataset(DatasetBase):
    """A subclass says in `source` where its items come from; shots, seed and class subset are applied here.

    Attributes beside Dassl's: `split` (relative paths), `split_hash` (SHA-256 of its items), `image_dir`.
    """

    def source(self, cfg) -> fewshot.Source:
        """Where the items come from. The base class takes it from the known layout of the registry name."""
        raise UserError(f"{type(self).__name__} defines no source(cfg).")

    def __init__(self, cfg):
        source = self.source(cfg)
        write = cfg.DATASET.get("WRITE_CACHE", True)
        subset = cfg.DATASET.get("SUBSAMPLE_CLASSES", "all")
        split = fewshot.load(source, cfg.DATASET.NUM_SHOTS, cfg.SEED, subset, write)
        self.split: Split = split
        self.split_hash = split_hash(split)
        self.image_dir = str(source.image_dir)
        self.dataset_dir = str(source.image_dir)
        train, val, test = (_data(part, source.image_dir) for part in split)
        super().__init__(train_x=train, val=val or None, test=test)


def _data(items, image_dir: Path) -> list[Datum]:
    folder = str(image_dir)
    return [Datum(impath=f"{folder}/{i.path}", label=i.label, classname=i.classname) for i in items]
