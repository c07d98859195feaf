"""Run a trainer's inference on one batch without changing anything: on a copy of the trainer.

Models cache features at their first inference, count calls, and draw random numbers. The copy has its own modules and
attributes, and shares what is frozen or large: the weights that are not trained, data loaders, optimizers.
"""

import contextlib
import copy
import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from qprompt.errors import UserError
from qprompt.io.random_state import random_state_kept

IMAGES = 4  # of a batch
_SHARED = ("torch.optim", "torch.utils", "torch.amp", "torch.cuda", "dassl.", "yacs.", "qprompt.quantization.recorder")


def probe_batch(trainer: Any) -> Any:
    """Return the first images of the test set as `parse_batch_test` gives them, at most `IMAGES`."""
    loader = trainer.test_loader
    with random_state_kept():
        if isinstance(loader, DataLoader) and hasattr(loader.dataset, "__getitem__"):  # without starting workers
            count = min(IMAGES, len(loader.dataset))  # type: ignore[arg-type]
            batch = loader.collate_fn([loader.dataset[i] for i in range(count)])
        else:
            batch = next(iter(loader))
        images = trainer.parse_batch_test(batch)[0]
    return images[:IMAGES] if isinstance(images, Tensor) else images


def copy_of(trainer: Any) -> Any:
    """Return a copy of a trainer that can be run and changed without an effect on the trainer."""
    twin = object.__new__(type(trainer))
    memo: dict[int, Any] = {id(trainer): twin}
    for value in vars(trainer).values():
        if type(value).__module__.startswith(_SHARED) and not isinstance(value, nn.Module):
            memo[id(value)] = value
    for registered in (trainer._optims, trainer._scheds):
        memo[id(registered)] = registered
    for module in _modules(trainer):
        for parameter in module._parameters.values():
            if parameter is not None and not parameter.requires_grad:
                memo[id(parameter)] = parameter
        for value in vars(module).values():  # torch refuses to copy what was computed with gradients
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = _without_graph(value)
    for name, value in vars(trainer).items():
        if isinstance(value, Tensor) and value.grad_fn is not None:
            memo[id(value)] = _without_graph(value)
        try:
            vars(twin)[name] = copy.deepcopy(value, memo)
        except (TypeError, RuntimeError, AttributeError) as error:  # an open file, a lock, a generator
            if isinstance(value, nn.Module):
                raise UserError(f"{type(trainer).__name__}.{name} cannot be copied to probe it: {error}") from None
            vars(twin)[name] = value
    return twin


@contextlib.contextmanager
def guarded(trainer: Any) -> Iterator[Any]:
    """Give the trainer itself, and put back on exit what inference may have changed: attributes, and values of tensors.

    For models that refer to themselves where a copy cannot follow, e.g. in a closure.
    """
    things = [trainer, *{id(m): m for m in _modules(trainer)}.values()]
    attributes = [(thing, dict(vars(thing))) for thing in things]
    held: dict[int, Any] = {
        id(v): v for _, saved in attributes for v in saved.values() if isinstance(v, (dict, list, set))
    }
    contents = [(v, copy.copy(v)) for v in held.values()]
    tensors = [t for m in things[1:] for t in (*m._buffers.values(), *m._parameters.values()) if t is not None]
    values = [(t, t.detach().clone()) for t in tensors if t.requires_grad or not isinstance(t, nn.Parameter)]
    try:
        yield trainer
    finally:
        for thing, saved in attributes:
            vars(thing).clear()
            vars(thing).update(saved)
        for container, saved in contents:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(saved)
        for tensor, saved in values:
            if not torch.equal(tensor, saved):
                tensor.data.copy_(saved)


@contextlib.contextmanager
def copied(trainer: Any) -> Iterator[Any]:
    """Give a copy of the trainer."""
    yield copy_of(trainer)


def infer(trainer: Any, images: Any, gradients: bool = False) -> list[Tensor]:
    """Return the tensors and arrays that `model_inference` returns for `images`, in eval mode, as floating point.

    Random numbers are drawn from the same state each time, and nothing is printed.
    """
    with random_state_kept(), redirect_stdout(io.StringIO()), torch.set_grad_enabled(gradients):
        torch.manual_seed(0)
        trainer.set_model_mode("eval")
        return list(tensors_in(trainer.model_inference(images)))


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """Yield the tensors and numpy arrays in nested lists, tuples and dicts, in floating point."""
    if isinstance(thing, np.ndarray) and thing.dtype.kind in "fiub":
        thing = torch.from_numpy(thing.copy())
    if isinstance(thing, Tensor):
        yield thing if thing.is_floating_point() else thing.float()
    elif isinstance(thing, (list, tuple, dict)):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from tensors_in(part)


def largest_difference(a: list[Tensor], b: list[Tensor]) -> float:
    """Return the largest absolute difference between two lists of tensors; infinity if their shapes differ."""
    if [t.shape for t in a] != [t.shape for t in b]:
        return float("inf")
    both_nan = [(torch.isnan(x) & torch.isnan(y)) for x, y in zip(a, b, strict=True)]
    gaps = [
        (x.float() - y.float()).abs().masked_fill(nan, 0) for x, y, nan in zip(a, b, both_nan, strict=True) if x.numel()
    ]
    return max((float(gap.max()) if not bool(gap.isnan().any()) else float("inf") for gap in gaps), default=0.0)


def _without_graph(tensor: Tensor) -> Tensor:
    """Return a copy; a view of a parameter stays one, since its model computes with the parameter through it."""
    base = tensor._base
    return tensor.detach() if isinstance(base, nn.Parameter) else tensor.detach().clone()


def _modules(trainer: Any) -> Iterator[nn.Module]:
    for value in (*trainer._models.values(), *vars(trainer).values()):
        if isinstance(value, nn.Module):
            yield from value.modules()
