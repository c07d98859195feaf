"""OxfordPets: 37 breeds of cats and dogs."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class OxfordPets(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
