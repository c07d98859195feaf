"""What a stretch of a program asked of the device: operations, and places where the host waits for it."""

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

aten = torch.ops.aten
PROJECT = Path(__file__).resolve().parents[2]

# Operations that launch nothing on a GPU, besides views.
NO_KERNEL = {
    "detach", "alias", "lift_fresh", "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided",
    "_unsafe_view", "_reshape_alias", "is_same_size",
}  # fmt: skip
# Operations whose result the host needs.
SYNCHRONIZING = {
    "_local_scalar_dense": "item", "nonzero": "nonzero", "masked_select": "masked_select", "_unique2": "unique",
    "unique_consecutive": "unique", "unique_dim": "unique", "bincount": "bincount", "equal": "equal",
    "is_nonzero": "bool",
}  # fmt: skip
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class Segment:
    """The device's work in one stretch of a program.

    Attributes:
        operations: number of kernels by operation.
        synchronizations: number by what waits, and where.
    """

    def __init__(self, label: str):
        self.label, self.operations, self.synchronizations = label, Counter[str](), Counter[tuple[str, str]]()

    def to_json(self) -> dict[str, Any]:
        waits = {f"{what} at {where}": n for (what, where), n in self.synchronizations.items()}
        return {"label": self.label, "operations": dict(self.operations), "synchronizations": waits}


current: Segment | None = None  # what is being recorded


@contextlib.contextmanager
def recording(segment: Segment) -> Iterator[Segment]:
    """Record into `segment` within the context."""
    global current
    outer, current = current, segment
    try:
        yield segment
    finally:
        current = outer


def note(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], on_device: Any, target: str | None) -> None:
    """Record one operation.

    Args:
        func: the operation.
        args: its arguments.
        kwargs: more of them.
        on_device: tells whether an object is a tensor of the stand-in.
        target: type of the device that the operation was asked for.
    """
    if current is None:
        return
    name = func._opname
    if not is_view(func) and name not in NO_KERNEL:
        current.operations[name] += 1
    if wait := _wait(func, name, args, kwargs, on_device, target):
        current.synchronizations[wait, place()] += 1


def _wait(
    func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], on_device: Any, target: str | None
) -> str:
    """Return why the host waits for the device in this operation; empty if it does not."""
    if func is aten._to_copy.default:
        if on_device(args[0]):
            return "copy to the CPU" if target == "cpu" else ""
        return _upload(args[0], bool(kwargs.get("non_blocking"))) if target == "cuda" else ""
    if func is aten.copy_.default:
        if not on_device(args[0]):
            return "copy to the CPU"
        non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        return "" if on_device(args[1]) else _upload(args[1], non_blocking)
    if func in INDEXED:
        tensors = [index for index in args[1] if isinstance(index, torch.Tensor)]
        if any(index.dtype in (torch.bool, torch.uint8) for index in tensors):
            return "index of booleans"
        return "index on the CPU" if not all(on_device(index) for index in tensors) else ""
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return "repeat_interleave without output_size"
    return SYNCHRONIZING.get(name, "")


def _upload(tensor: torch.Tensor, non_blocking: bool) -> str:
    if not non_blocking:
        return "copy to the device"
    return "" if tensor.is_pinned() else "copy to the device from memory that is not pinned"


@functools.cache
def is_view(func: Any) -> bool:
    """Return whether the operation only returns views of its arguments."""
    infos = [result.alias_info for result in func._schema.returns]
    return any(info is not None and not info.is_write for info in infos)


def place() -> str:
    """Return the line of the project that runs, and the line that called its function."""
    frame, found = sys._getframe(1), []
    while frame is not None and len(found) < 2:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PROJECT) and not path.is_relative_to(PROJECT / "tests") and ".venv" not in path.parts:
            found.append(f"{path.relative_to(PROJECT)}:{frame.f_lineno}")
        elif path.name == "grad_scaler.py" and not found:
            found.append("GradScaler")
        frame = frame.f_back
    return " < ".join(found) or "PyTorch"
