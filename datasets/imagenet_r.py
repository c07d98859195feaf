"""ImageNet-R: art, toys and other renditions of 200 classes; for testing only."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class ImageNetR(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
