"""EuroSAT: 10 kinds of land use seen by satellite."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class EuroSAT(BenchmarkDataset):
    """Read as `qprompt.data.layouts` says under this name."""
