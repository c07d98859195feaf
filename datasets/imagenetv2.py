"""ImageNetV2 (matched frequency): a new test set for ImageNet's 1000 classes; for testing only."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class ImageNetV2(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
