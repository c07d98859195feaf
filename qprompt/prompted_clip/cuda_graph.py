"""Encoders whose kernels a GPU launches together, as CUDA graphs (``CUDA_GRAPH``)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qprompt.errors import UserError


class Captured:
    """A function of tensors, with CUDA graphs of its forward and its backward pass.

    They are captured at the first call with gradients and replayed for tensors of the same shapes; every other call
    computes the function itself. A replay overwrites the result of the one before, and its gradients.

    Capturing must not wait for the device, and what the function reads besides its arguments must stay where it is: so
    `function` is an encoder of the frozen CLIP, and not the prompt learner, whose codebooks come and go.

    Raises:
        UserError: In the first call with gradients: the kernels could not be captured.
    """

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function
        self._replay: Any = None
        self._captured: Any = None  # what the tensors were like

    def __call__(self, *tensors: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
            return self.function(*tensors)  # PyTorch 2.4 cannot capture what has no backward pass
        alike = [(t.shape, t.dtype, t.device, t.requires_grad, torch.is_autocast_enabled()) for t in tensors]
        if self._replay is None:
            samples = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in tensors)
            try:
                self._replay = torch.cuda.make_graphed_callables(self.function, samples)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = str(error).partition("\n")[0].rstrip(".")
                raise UserError(
                    f"an encoder cannot become a CUDA graph here ({reason}): type CUDA_GRAPH False."
                ) from error
            self._captured = alike
        return self._replay(*tensors) if alike == self._captured else self.function(*tensors)
