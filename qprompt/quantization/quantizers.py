"""Quantizers: how the k = 2^b levels of a tensor are chosen.

A quantizer is one decorated function ``(x, k) -> levels``: finite x (B, n) in float32 gives levels (B, k), ascending.
`REGISTRY` is the only list of them. Everything after the levels (assignment, straight-through gradient, packing) is the
same for all quantizers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qprompt.errors import UserError, did_you_mean
from qprompt.quantization.kmeans import fit_sorted, sort


@dataclass(frozen=True)
class Quantizer:
    """An entry of the registry.

    Attributes:
        fit: (B, n), k -> (B, k) ascending levels.
        learned: whether the distance between levels is trained with the weights after the fit.
        max_bits: the largest number of bits.
    """

    fit: Callable[[Tensor, int], Tensor]
    learned: bool = False
    max_bits: int = 8


REGISTRY: dict[str, Quantizer] = {}


def register(name: str, **traits) -> Callable[[Callable[[Tensor, int], Tensor]], Callable[[Tensor, int], Tensor]]:
    """Register a function as the quantizer `name`; ValueError if the name is taken.

    Args:
        name: the value of ``TRAINER.QUANT.METHOD``.
        traits: fields of `Quantizer` other than `fit`.
    """

    def add(fit: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
        if name in REGISTRY:
            raise ValueError(f"quantizer {name!r} is registered already")
        REGISTRY[name] = Quantizer(fit, **traits)
        return fit

    return add


def get(name: str) -> Quantizer:
    """Return the quantizer of that name; UserError lists the names if there is none."""
    if name not in REGISTRY:
        raise UserError(f"no quantizer {name!r}.{did_you_mean(str(name), REGISTRY)} There are: {', '.join(REGISTRY)}.")
    return REGISTRY[name]


def grid(k: int, device: torch.device | None = None) -> Tensor:
    """Return k points at distance 1, centered on 0: -(k - 1) / 2, ..., (k - 1) / 2."""
    return torch.arange(k, dtype=torch.float32, device=device) - (k - 1) / 2


@register("kmeans")
def kmeans(x: Tensor, k: int) -> Tensor:
    """Levels of least squared error (arXiv 2407.10704, section 3.3); see `qprompt.quantization.kmeans`."""
    return fit_sorted(sort(x), k).to(x.device, x.dtype)


@register("uniform")
def uniform(x: Tensor, k: int) -> Tensor:
    """Min-max affine levels: equal steps from the smallest to the largest value."""
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    return low + (high - low) * torch.linspace(0, 1, k, device=x.device)


@register("normal")
def normal(x: Tensor, k: int) -> Tensor:
    """Normal-float levels: quantiles (i + 1/2) / k of the normal distribution with the mean and deviation of x."""
    sigma, mu = torch.std_mean(x, dim=-1, keepdim=True, correction=0)
    return mu + sigma * torch.special.ndtri((torch.arange(k, device=x.device) + 0.5) / k)


@register("sign", max_bits=1)
def sign(x: Tensor, k: int) -> Tensor:
    """Binary levels: -a and +a with a = mean |x|, which minimizes the squared error (XNOR-Net, arXiv 1603.05279)."""
    return x.abs().mean(-1, keepdim=True) * torch.tensor([-1.0, 1.0], device=x.device)


@register("lsq", learned=True)
def lsq(x: Tensor, k: int) -> Tensor:
    """Initial levels of a learned step size s (LSQ, arXiv 1902.08153): s * grid(k), with the best s of 64 candidates.

    The paper's levels are s times -2^(b-1), ..., 2^(b-1) - 1, which at one bit are only {-s, 0}. Ours center on 0.
    """
    points = grid(k, x.device)
    largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    best = torch.full_like(largest, torch.inf)
    step = torch.zeros_like(largest)
    for part in range(1, 65):
        s = 2 * largest / k * part / 64
        nearest = (x / s + (k - 1) / 2).round_().clamp_(0, k - 1) - (k - 1) / 2
        # The step that fits these indices best, and its error.
        fitted = ((x * nearest).sum(-1, keepdim=True) / nearest.square().sum(-1, keepdim=True)).clamp(min=0)
        error = (x - fitted * nearest).square().sum(-1, keepdim=True)
        step, best = torch.where(error < best, fitted, step), torch.minimum(error, best)
    return step * points
