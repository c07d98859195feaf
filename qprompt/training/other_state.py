"""State of a third-party trainer that training changes beside its parameters: buffers and tensors in attributes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qprompt.training import selection


class OtherState:
    """Remembers the state of a trainer's modules at one moment.

    Args:
        trainer: complete.
    """

    def __init__(self, trainer: Any) -> None:
        self.sums = {name: _sums(tensor) for name, tensor in _tensors(trainer)}

    def changed(self, trainer: Any) -> list[str]:
        """Return the names of the tensors that have other values since then; what was made since then is a cache."""
        return [name for name, t in _tensors(trainer) if name in self.sums and self.sums[name] != _sums(t)]


def _tensors(trainer: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of each buffer and each tensor that an attribute of a module is, once."""
    seen: set[int] = set()
    for model_name, model in selection.modules_of(trainer).items():
        for path, module in model.named_modules():
            for attribute, value in (*module._buffers.items(), *vars(module).items()):
                parameter = isinstance(value, torch.nn.Parameter)
                if isinstance(value, Tensor) and value.is_floating_point() and not parameter and id(value) not in seen:
                    seen.add(id(value))
                    yield ".".join(filter(None, (model_name, path, attribute))), value


@torch.no_grad()
def _sums(tensor: Tensor) -> str:
    sums = tensor.sum(dtype=torch.float64), tensor.abs().sum(dtype=torch.float64)
    return str((tuple(tensor.shape), *map(float, sums)))  # as text: NaN equals NaN
