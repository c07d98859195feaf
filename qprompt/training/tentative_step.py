"""A training step during which the host waits for the device once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qprompt.io.transfer import joined


def read_together(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Copy tensors to the host in one transfer: flat, float64."""
    flat = joined(tensors) if len(tensors) > 1 else tensors[0].detach().flatten()
    host = flat.cpu().numpy().astype(np.float64, copy=False)
    return np.split(host, np.cumsum([tensor.numel() for tensor in tensors])[:-1])


class TentativeStep:
    """An optimizer step with scaled gradients, taken before the host knows whether they are finite.

    ``GradScaler.step`` reads from the device whether a gradient overflowed, and so waits for the whole backward pass.
    Here the step is taken at once, and taken back if it turns out that it should have been skipped.

    Attributes:
        overflow: whether a gradient is NaN or infinite, on the device: 0 or 1.
        scale: of the loss after the step, on the device.
    """

    @torch.no_grad()
    def __init__(self, scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        learned = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.overflow = _unscale_(scaler, optimizer, [p.grad for p in learned])
        self.state = {parameter: dict(entries) for parameter, entries in optimizer.state.items()}
        changed: list[Tensor] = learned
        changed = changed + [v for entries in self.state.values() for v in entries.values() if isinstance(v, Tensor)]
        self.before = [(of_device, _copies(of_device)) for of_device in _by_device(changed)]
        optimizer.step()
        scaler.update()
        self.scale: Tensor = scaler._scale  # type: ignore[assignment]  # get_scale would wait for the device

    @torch.no_grad()
    def take_back(self) -> None:
        """Set parameters and the state of the optimizer to what they were."""
        for tensors, copies in self.before:
            torch._foreach_copy_(tensors, copies)
        self.optimizer.state.clear()
        self.optimizer.state.update(self.state)


def _unscale_(scaler: Any, optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> Tensor:
    """Divide the gradients by the scale; return whether one is NaN or infinite, on the device.

    As ``scaler.unscale_``, which copies the scale and the flag four times, for gradients on one device. There is no
    public name for what ``scaler.update`` then wants to know.
    """
    devices = {gradient.device for gradient in gradients}
    if len(devices) != 1:
        scaler.unscale_(optimizer)
        flags = scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values()
        return torch.stack([flag.to(scaler._scale.device) for flag in flags]).amax()
    overflow = torch.zeros(1, dtype=torch.float32, device=scaler._scale.device)
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow, scaler._scale.reciprocal())
    scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"] = {devices.pop(): overflow}
    return overflow


def _by_device(tensors: list[Tensor]) -> list[list[Tensor]]:
    groups: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.device, []).append(tensor)
    return list(groups.values())


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    copies = [torch.empty_like(tensor) for tensor in tensors]
    torch._foreach_copy_(copies, tensors)
    return copies
