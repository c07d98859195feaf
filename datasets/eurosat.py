"""EuroSAT: 10 kinds of land use seen by satellite."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class EuroSAT(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
