"""ImageNet-A: natural images of 200 classes that ResNets get wrong; for testing only."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class ImageNetA(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
