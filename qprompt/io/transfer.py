"""Copies between the host and a device, with as little waiting as possible."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, device

WITH_FP64 = ("cpu", "cuda")  # other devices may not have it


def pinned(tensor: "Tensor", target: "device") -> "Tensor":
    """Return `tensor` in pinned memory if `target` is a GPU: the host waits for a copy from other memory."""
    return tensor.pin_memory() if target.type == "cuda" and tensor.device.type == "cpu" else tensor


def send(tensor: "Tensor", target: "device") -> "Tensor":
    """Return `tensor` on `target`, without waiting for the copy. The device uses the result only after it."""
    return pinned(tensor, target).to(target, non_blocking=True)


def joined(tensors: Sequence["Tensor"]) -> "Tensor":
    """Return all entries of the tensors, flat, to be read in one transfer.

    If they are not of one floating type, they become float64 where the device has it, which holds counts of any size
    and every value of a smaller type.
    """
    import torch

    flat, kinds = [tensor.detach().flatten() for tensor in tensors], {tensor.dtype for tensor in tensors}
    if len(kinds) > 1 or not flat[0].is_floating_point():
        flat = [each.to(torch.float64 if each.device.type in WITH_FP64 else torch.float32) for each in flat]
    return torch.cat(flat)
