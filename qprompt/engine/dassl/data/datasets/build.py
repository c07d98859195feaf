"""The registry of data sets."""

from ..._left_out import DATASETS, LeftOut, advice
from ...utils import Registry, check_availability

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg):
    """Return the data set named by ``cfg.DATASET.NAME``.

    Raises:
        UserError: no data set with this name is registered.
        ImportError: only real Dassl has it.
    """
    name, names = cfg.DATASET.NAME, DATASET_REGISTRY.registered_names()
    if name in DATASETS and name not in names:
        raise LeftOut(advice(f"data set {name}"))
    check_availability(name, names)
    if cfg.VERBOSE:
        print(f"Loading dataset: {name}")
    return DATASET_REGISTRY.get(name)(cfg)
