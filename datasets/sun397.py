"""SUN397: 397 scenes, first official partition."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class SUN397(BenchmarkDataset):
    """Read as `qprompt.data.layouts` says under this name."""
