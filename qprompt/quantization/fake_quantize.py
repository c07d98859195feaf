"""The computation of arXiv 2407.10704 on one tensor, as a torch parametrization."""

import dataclasses
import json
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qprompt.errors import UserError
from qprompt.quantization import quantizers
from qprompt.quantization.batching import Coded, divergence, encode, normalize
from qprompt.quantization.codebook import TABLE_FROM, Table, assign, count, is_compiling, lookup, make_table
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.kmeans import boundaries


class Kept(NamedTuple):
    """What `refresh_` computed for the forward pass that follows it, and of which weight."""

    version: int
    address: int
    coded: Coded


class FakeQuantize(nn.Module):
    """W -> W_q = sigma * c[i] + mu in half precision, i the level nearest to W_hat = (W - mu) / sigma.

    mu and sigma are those of W as it is, the levels c those of the last fit. The gradient of W, g being that of W_q
    and N the entries of a group (section 3.2 of the paper says "ste"; the others are for comparison):

    - "ste": dW = g, straight-through.
    - "stats": dW = g + W_hat / N * sum(g * (c[i] - W_hat)). Straight-through for the rounding alone; sigma = std(W)
      depends on W, and mu cancels. Without normalization the same as "ste".
    - method "lsq", c = s * m: dW = g within the cells of the levels, else 0; ds = a * sum(g * sigma * r) with
      r = m[i] - W_hat / s within, else m[i], and a = 1 / sqrt(N (k - 1) / 2) (arXiv 1902.08153, equation 3).

    Before the first fit (mode "ptq", or steps before `start_step`) W passes unchanged.
    """

    codebook: Tensor  # (G, k) float32, c ascending
    reference: Tensor  # (G, k) float32, P_ref: share of the weights on each level at the last fit
    mids: Tensor  # (G, k - 1) float32, boundaries between the levels c

    def __init__(self, weight: Tensor, config: QuantConfig) -> None:
        super().__init__()
        self.config = config
        self.rule = quantizers.get(config.method)
        self.groups, self.numel = count_groups(weight.shape, config), weight.numel()
        zeros = torch.zeros(self.groups, config.levels, device=weight.device)
        self.register_buffer("codebook", zeros)
        self.register_buffer("reference", zeros.clone())
        self.register_buffer("mids", zeros[:, 1:].clone(), persistent=False)
        self.table: Table | None = None
        self._reference: np.ndarray | None = None  # P_ref on the host, once it is needed
        self.learned = self.rule.learned and config.bits != 16
        self.step_size = nn.Parameter(zeros.new_ones(self.groups, 1)) if self.learned else None
        self.reset()

    def reset(self) -> None:
        """Forget every step and fit."""
        self.step = self.last_fit = self.fits = 0
        self.active = False  # whether there was a fit; apart from `fits` so that a compiled forward stays valid
        self.kl = math.nan  # KL(P_now || P_ref) when it was last computed
        self._kept: Kept | None = None

    def forward(self, weight: Tensor) -> Tensor:
        if not self.active:
            return weight
        coded = self._take(weight) if torch.is_grad_enabled() else None
        with torch.no_grad():
            if self.config.levels == 0:
                value = weight.to(torch.float16).to(weight.dtype)
            else:
                coded = coded or self.encode(weight)
                value = coded.values.view(weight.shape)
        if not torch.is_grad_enabled():
            return value
        if coded is not None and self.learned:
            return self._through_step_size(weight, value, coded)
        value = straight_through(weight, value)
        if coded is not None and self.config.gradient == "stats" and self.config.normalize:
            value = value + self._through_sigma(weight, coded)
        return value

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def encode(self, weight: Tensor) -> Coded:
        """What the prompt file holds of `weight`."""
        return encode(*self.normalize(weight), self.normalized_levels(), self.boundaries(), weight.dtype, self.table)

    def keep(self, weight: Tensor, coded: Coded) -> None:
        """Use `coded` in the next forward pass with gradients, if `weight` is then what it is now."""
        if weight.requires_grad:  # others are moving averages and the like, whose code changes them as it likes
            self._kept = Kept(weight._version, weight.data_ptr(), coded)

    def forget(self) -> None:
        """Have the next forward pass compute its own code."""
        self._kept = None

    def to_encode(self, weight: Tensor) -> bool:
        """Whether the next forward pass needs a code that was not kept for it."""
        return self.active and self.config.levels > 0 and weight.requires_grad and self._kept_for(weight) is None

    def _kept_for(self, weight: Tensor) -> Coded | None:
        if self._kept is None or not isinstance(weight, nn.Parameter):  # a replica of it, or torch.func's stand-in
            return None
        return self._kept.coded if self._kept[:2] == (weight._version, weight.data_ptr()) else None

    def _take(self, weight: Tensor) -> Coded | None:
        if is_compiling():
            return None
        # Once: a pass after it computes its own, so that changes which `_version` does not count can't stay unseen.
        coded, self._kept = self._kept_for(weight), None
        return coded

    def normalized_levels(self) -> Tensor:
        """c: (G, k) float32."""
        if self.step_size is None:
            return self.codebook
        return self.step_size.detach().abs() * quantizers.grid(self.config.levels, self.codebook.device)

    def boundaries(self) -> Tensor:
        """Between the levels: (G, k - 1) float32."""
        return self.mids if self.step_size is None else boundaries(self.normalized_levels())

    def normalize(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """W_hat (G, L) float32, mu and sigma (G, 1); without normalization W, 0 and 1. A constant's W_hat is 0."""
        return normalize(weight.detach().reshape(self.groups, -1).float(), self.config.normalize, self.large)

    def divergence(self, weight: Tensor) -> float:
        """KL(P_now || P_ref) in nats of `weight`; the largest of the groups."""
        counts = count(self.encode(weight).indices, self.config.levels)
        return float(divergence(counts.cpu().numpy(), self.host_reference()).max())

    def host_reference(self) -> np.ndarray:
        """P_ref (G, k) where a few numbers are less work than sending them to a device."""
        if self._reference is None:
            self._reference = self.reference.cpu().numpy().astype(np.float64)
        return self._reference

    def fit(self, weight: Tensor) -> None:
        """New levels for `weight` as it is now, and P_ref with them."""
        if self.config.bits != 16:
            normalized, _, _ = self.normalize(weight)
            self.codebook.copy_(self.rule.fit(normalized, self.config.levels))
            if self.step_size is not None:
                self.step_size.data.copy_(self.codebook[:, -1:] - self.codebook[:, -2:-1])
            self._derive()
            indices = assign(normalized, self.mids, self.table)
            self.reference.copy_(count(indices, self.config.levels) / indices.shape[1])
        self.last_fit, self.fits, self.active, self.kl = self.step, self.fits + 1, True, 0.0
        self._kept = None

    def _derive(self) -> None:
        """What follows from the codebook and is too costly for every step."""
        self.mids.copy_(boundaries(self.codebook))
        self._reference, self._kept = None, None
        tabled = self.large and self.groups == 1 and not self.learned and self.mids.device.type == "cpu"
        self.table = make_table(self.mids[0]) if tabled else None

    @property
    def large(self) -> bool:
        """Whether passes over the tensor cost their arithmetic rather than their number, on a CPU."""
        return self.numel >= TABLE_FROM

    @property
    def due(self) -> bool | None:
        """Whether this step fits the levels; None where their divergence decides."""
        c = self.config
        if not self.fits:
            return c.mode == "qat" and self.step >= c.start_step
        if c.levels == 0 or self.learned or c.mode == "ptq" or c.policy == "once" or self.step == self.last_fit:
            return False
        if c.policy == "every":
            return True
        return None if self.step - self.last_fit >= c.min_interval else False

    def _through_sigma(self, weight: Tensor, coded: Coded) -> Tensor:
        """Zero, with the gradient (c[i] - W_hat) dsigma/dW."""
        residual = lookup(self.codebook, coded.indices) - coded.normalized
        sigma = weight.reshape(self.groups, -1).float().std(-1, correction=0, keepdim=True)
        return (residual * (sigma - sigma.detach())).to(weight.dtype).view(weight.shape)

    def _through_step_size(self, weight: Tensor, value: Tensor, coded: Coded) -> Tensor:
        assert self.step_size is not None
        k, n = self.config.levels, coded.normalized.shape[1]
        scaled = coded.normalized / self.step_size.detach().abs().clamp(min=1e-30)
        within = scaled.abs() <= k / 2
        points = lookup(quantizers.grid(k, scaled.device).expand(self.groups, -1), coded.indices)
        slope = coded.sigma * (points - torch.where(within, scaled, 0.0)) / math.sqrt(n * (k - 1) / 2)
        size = self.step_size.abs()
        through = slope * (size - size.detach())
        zero = weight - weight.detach()
        return value + zero * within.view(zero.shape) + through.to(value.dtype).view(value.shape)

    def get_extra_state(self) -> Tensor:
        # As a tensor, so that a state dict holds tensors only: JSON in bytes.
        state = {name: getattr(self, name) for name in ("step", "last_fit", "fits")}
        state["config"] = dataclasses.asdict(self.config)
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    @staticmethod
    def saved(state: Tensor) -> dict[str, Any]:
        """What `get_extra_state` put into a tensor: step, last_fit, fits and the config's fields."""
        return json.loads(bytes(state.tolist()))

    def set_extra_state(self, state: Tensor) -> None:
        saved = self.saved(state)
        for field in ("method", "bits", "normalize", "granularity"):
            got, own = saved["config"][field], getattr(self.config, field)
            if got != own:
                raise UserError(f"the checkpoint was quantized with {field}={got!r}, this module with {field}={own!r}")
        self.step, self.last_fit, self.fits = saved["step"], saved["last_fit"], saved["fits"]
        self.active, self.kl = self.fits > 0, math.nan
        self._derive()

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        # The device follows the module around it; .half() must not round the levels.
        own = {**self._buffers, **self._parameters}
        before = {name: tensor.detach().clone() for name, tensor in own.items() if tensor is not None}
        super()._apply(*args, **kwargs)
        self.forget()  # weights in another type and back may lie where they lay
        for name, old in before.items():
            now = getattr(self, name)
            if now.dtype != old.dtype:
                now.data = old.to(now.device)
        return self


def straight_through(weight: Tensor, value: Tensor) -> Tensor:
    """W_q, with its gradient as that of W.

    Exactly: `W + (W_q - W).detach()` would round, and so train other values than are packed.
    """
    if isinstance(weight, nn.Parameter):
        return StraightThrough.apply(weight, value)
    return value + (weight - weight.detach())  # torch.func takes no Function like ours


class StraightThrough(torch.autograd.Function):
    """`straight_through` in one operation."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def count_groups(shape: torch.Size, config: QuantConfig) -> int:
    """How many codebooks a tensor of that shape gets."""
    n = shape.numel()
    length = {"tensor": n, "row": shape[-1] if shape else 1, "group": config.group_size}[config.granularity]
    if not n or n % length:
        raise UserError(f"group_size {length} does not divide the {n} entries of a tensor of shape {tuple(shape)}")
    return n // length
