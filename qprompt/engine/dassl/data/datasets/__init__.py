"""The registry and the base classes of data sets."""

from ..._left_out import module_getattr

from .build import DATASET_REGISTRY, build_dataset  # isort:skip
from .base_dataset import DatasetBase, Datum

__all__ = ["DATASET_REGISTRY", "DatasetBase", "Datum", "build_dataset"]

__getattr__ = module_getattr(__name__)
