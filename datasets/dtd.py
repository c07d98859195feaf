"""DescribableTextures (DTD): 47 textures."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class DescribableTextures(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
