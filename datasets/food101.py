"""Food101: 101 dishes."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class Food101(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
