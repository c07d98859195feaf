"""OxfordFlowers (Flowers102): 102 flowers of Britain."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class OxfordFlowers(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
