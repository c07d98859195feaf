"""What a state dict holds of a `FakeQuantize` besides its buffers."""

import dataclasses
import json
import math
from typing import Any

import torch
from torch import Tensor, nn

from qprompt.errors import UserError
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.encoding import EncodingCache

COUNTERS = ("step", "last_fit", "fits")
BINDING = ("method", "bits", "normalize", "granularity")  # a checkpoint must share these with the module


class QuantizerState(nn.Module):
    """Step counts and settings in the state dict; levels that stay in fp32 when the module is cast."""

    config: QuantConfig
    cache: EncodingCache
    step: int  # steps that `refresh_` counted
    last_fit: int  # the step of the last fit
    fits: int  # how often the levels were fitted
    active: bool  # whether they were; apart from `fits`, so that a compiled forward pass stays valid
    kl: float  # KL(P_now || P_ref) in nats when it was last computed

    def reset(self) -> None:
        """Forget every step and every fit."""
        self.step = self.last_fit = self.fits = 0
        self.active, self.kl = False, math.nan
        self.cache.clear()

    def derive_(self) -> None:
        """Compute what follows from the codebook."""

    def get_extra_state(self) -> Tensor:
        # A tensor, so that a state dict holds tensors only: JSON in bytes.
        state = {name: getattr(self, name) for name in COUNTERS}
        state["config"] = dataclasses.asdict(self.config)
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        saved = parse_extra_state(state)
        for field in BINDING:
            got, expected = saved["config"][field], getattr(self.config, field)
            if got != expected:
                raise UserError(
                    f"the checkpoint was quantized with {field}={got!r}, this module with {field}={expected!r}"
                )
        for name in COUNTERS:
            setattr(self, name, saved[name])
        self.active, self.kl = self.fits > 0, math.nan
        self.derive_()

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        # The device follows the module around it; .half() must not round the levels.
        own = {**self._buffers, **self._parameters}
        before = {name: tensor.detach().clone() for name, tensor in own.items() if tensor is not None}
        super()._apply(*args, **kwargs)
        self.cache.clear()  # weights that were cast and cast back may lie where they lay
        for name, old in before.items():
            now = getattr(self, name)
            if now.dtype != old.dtype:
                now.data = old.to(now.device)
        return self


def parse_extra_state(state: Tensor) -> dict[str, Any]:
    """Return what `QuantizerState.get_extra_state` put into a tensor: step, last_fit, fits and the fields of config.

    Raises:
        UserError: the tensor holds something else.
    """
    try:
        saved = json.loads(bytes(state.tolist()))
        counted = all(isinstance(saved[name], int) and saved[name] >= 0 for name in COUNTERS)
        described = all(field in saved["config"] for field in BINDING)
    except (AttributeError, KeyError, TypeError, ValueError):
        counted = described = False
    if not (counted and described):
        raise UserError("the quantization state (_extra_state) in the state dict is damaged: load another checkpoint")
    return saved
