"""ImageNet: 1000 classes of the ILSVRC 2012 challenge; the 50,000 val images are val and test."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class ImageNet(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
