"""OxfordPets: 37 breeds of cats and dogs."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class OxfordPets(BenchmarkDataset):
    """Read as `qprompt.data.layouts` says under this name."""
