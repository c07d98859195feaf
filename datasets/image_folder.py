"""ImageFolder and ImageList: your own data as class folders or as a CSV, TSV, JSON or JSON lines list."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import FewShotDataset, data_root
from qprompt.data.fewshot import Source
from qprompt.data.image_folder import image_folder
from qprompt.data.item_list import item_list
from qprompt.errors import UserError


@DATASET_REGISTRY.register()
class ImageFolder(FewShotDataset):
    """``ROOT/<class>/*.jpg`` or ``ROOT/{train,val,test}/<class>/*.jpg``; DATASET.LAYOUT names other layouts."""

    def source(self, cfg) -> Source:
        return image_folder(data_root(cfg.DATASET.ROOT), cfg.DATASET.get("LAYOUT", "auto"))


@DATASET_REGISTRY.register()
class ImageList(FewShotDataset):
    """Images below ROOT, listed with their class and optionally their part of the split in the file DATASET.LIST."""

    def source(self, cfg) -> Source:
        root = data_root(cfg.DATASET.ROOT)
        file = Path(cfg.DATASET.LIST).expanduser()
        if not cfg.DATASET.LIST or not (file.is_file() or (root / file).is_file()):
            raise UserError(
                f"DATASET.LIST {cfg.DATASET.LIST!r} is not a file: expected a list of paths and classes of the images."
            )
        return item_list(file if file.is_file() else root / file, root)
