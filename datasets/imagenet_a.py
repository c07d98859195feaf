"""ImageNet-A: natural images of 200 classes that ResNets get wrong; for testing only."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class ImageNetA(BenchmarkDataset):
    """Read as `qprompt.data.layouts` says under this name."""
