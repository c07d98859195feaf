"""FGVCAircraft: 100 aircraft variants, official train, val and test lists."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class FGVCAircraft(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
