"""The states of the global random generators: Python's, numpy's, and torch's on the CPU and on every CUDA device."""

# ruff: noqa: NPY002 (set_random_seed seeds numpy's global generator)

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """The states of all global generators at one moment."""

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]  # name, 624 keys, position, and the spare normal number
    torch: Tensor  # uint8
    cuda: list[Tensor] = field(default_factory=list)  # per device; empty without CUDA

    @classmethod
    def current(cls, cuda: bool = True) -> "RandomState":
        """Return the states as they are now; `cuda` False leaves out the devices, which data loader workers lack."""
        numpy: Any = np.random.get_state()
        devices = torch.cuda.get_rng_state_all() if cuda and torch.cuda.is_available() else []
        return cls(random.getstate(), numpy, torch.get_rng_state(), devices)

    def restore(self) -> None:
        """Set the generators; states of CUDA devices that this machine lacks are ignored."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda and torch.cuda.is_available():
            for device, state in zip(range(torch.cuda.device_count()), self.cuda, strict=False):
                torch.cuda.set_rng_state(state, device)

    def to_checkpoint(self) -> dict[str, Any]:
        """Return the states as tensors and plain values, which torch's weights-only reader accepts."""
        name, keys, *rest = self.numpy
        numpy = [name, torch.from_numpy(keys.astype(np.int64)), *rest]
        devices = {"cuda": self.cuda} if self.cuda else {}
        return {"python": self.python, "numpy": numpy, "torch": self.torch, **devices}

    @classmethod
    def from_checkpoint(cls, states: dict[str, Any]) -> "RandomState":
        """Return what `to_checkpoint` described; a checkpoint may have been loaded onto a GPU."""
        version, internal, gauss = states["python"]
        name, keys, *rest = states["numpy"]
        numpy = name, keys.cpu().numpy().astype(np.uint32), *rest
        devices = [state.cpu() for state in states.get("cuda", [])]
        return cls((version, tuple(internal), gauss), numpy, states["torch"].cpu(), devices)

    def to_numbers(self) -> tuple[Any, Any, list[int]]:
        """Return the states of the CPU as plain numbers: equal states have equal representations."""
        name, keys, *rest = self.numpy
        return self.python, (name, keys.tolist(), *rest), self.torch.tolist()

    @classmethod
    def from_numbers(cls, numbers: tuple[Any, Any, list[int]]) -> "RandomState":
        """Return what `to_numbers` described."""
        python, (name, keys, *rest), cpu = numbers
        return cls(python, (name, np.array(keys, dtype=np.uint32), *rest), torch.tensor(cpu, dtype=torch.uint8))


@contextlib.contextmanager
def random_state_kept(cuda: bool = True) -> Iterator[None]:
    """Restore the random state after the block; `cuda`: see `RandomState.current`."""
    before = RandomState.current(cuda)
    try:
        yield
    finally:
        before.restore()
