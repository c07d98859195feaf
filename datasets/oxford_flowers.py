"""OxfordFlowers (Flowers102): 102 flowers of Britain."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class OxfordFlowers(BenchmarkDataset):
    """Read as `qprompt.data.layouts` says under this name."""
