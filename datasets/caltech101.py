"""Caltech101: 100 kinds of objects (background and Faces_easy are left out)."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class Caltech101(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
