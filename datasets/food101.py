"""Food101: 101 dishes."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class Food101(BenchmarkDataset):
    """Read as `qprompt.data.layouts` says under this name."""
