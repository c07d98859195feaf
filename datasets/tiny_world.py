"""TinyWorld: a generated few-shot data set that needs no download (docs/tiny_world.md)."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import FewShotDataset
from qprompt.data.fewshot import Source
from qprompt.data.split_file import read_split
from qprompt.errors import UserError
from qprompt.world.files import SPLIT_FILE, ensure_drawn


@DATASET_REGISTRY.register()
class TinyWorld(FewShotDataset):
    """30 classes of small drawings, generated on first use; ``DATASET.DRAW`` selects one of many variants."""

    generates_images = True  # the data root need not exist

    def source(self, cfg) -> Source:
        if not cfg.DATASET.ROOT:
            raise UserError("TinyWorld needs a folder for its images: type --root DATA.")
        folder = ensure_drawn(Path(cfg.DATASET.ROOT).expanduser().absolute(), cfg.DATASET.DRAW)
        split_file = folder / SPLIT_FILE
        if not split_file.is_file():
            raise UserError(f"{split_file} does not exist. Delete {folder}: the next run generates it again.")
        return Source(
            image_dir=folder / "images",
            read=lambda rng: read_split(split_file),
            split_file=split_file,
            cache_dir=folder / "split_fewshot",
        )
