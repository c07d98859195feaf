"""SUN397: 397 scenes, first official partition."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class SUN397(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
