"""TinyWorld: the drawn few-shot data set that the package carries (docs/tiny_world.md)."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import FewShotDataset
from qprompt.data.fewshot import Source
from qprompt.data.split_file import read_split
from qprompt.errors import UserError
from qprompt.world.files import SPLIT_FILE, ensure_drawn


@DATASET_REGISTRY.register()
class TinyWorld(FewShotDataset):
    """30 classes of small drawings, drawn on first use; ``DATASET.DRAW`` says which of the endless draws."""

    draws_itself = True  # needs no data root that is already there

    def source(self, cfg) -> Source:
        if not cfg.DATASET.ROOT:
            raise UserError("TinyWorld has nowhere to draw: name a folder with --root DATA.")
        folder = ensure_drawn(Path(cfg.DATASET.ROOT).expanduser().absolute(), cfg.DATASET.DRAW)
        split_file = folder / SPLIT_FILE
        if not split_file.is_file():
            raise UserError(f"{split_file} is missing. Remove {folder}, it is drawn again.")
        return Source(
            image_dir=folder / "images",
            read=lambda rng: read_split(split_file),
            split_file=split_file,
            cache_dir=folder / "split_fewshot",
        )
