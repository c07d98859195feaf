"""UCF101: 101 human actions, the middle frame of each video, first official list."""

from dassl.data.datasets import DATASET_REGISTRY

from datasets.fewshot import BenchmarkDataset


@DATASET_REGISTRY.register()
class UCF101(BenchmarkDataset):
    """See the `Layout` with this name in `qprompt.data.layouts`."""
