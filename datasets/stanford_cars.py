"""StanfordCars: 196 car models; a class name starts with the year."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class StanfordCars(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
