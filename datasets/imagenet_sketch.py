"""ImageNet-Sketch: drawings of ImageNet's 1000 classes; for testing only."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class ImageNetSketch(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
