"""DescribableTextures (DTD): 47 textures."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class DescribableTextures(BenchmarkDataset):
    """Read as `qprompt.data.layouts` says under this name."""
