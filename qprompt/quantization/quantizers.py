"""Level rules: which k = 2^b levels stand for the values of a tensor.

A rule is one decorated function ``rule(x, k) -> levels``: finite x (B, n) in float32 gives (B, k), ascending.
`REGISTRY` is the only list of them. Everything behind the levels (assignment, straight-through gradient, packing)
is the same for all rules.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qprompt.errors import UserError, did_you_mean
from qprompt.quantization.kmeans import fit_sorted, sort


@dataclass(frozen=True)
class Rule:
    """`fit` (B, n), k -> (B, k). `learned`: the distance between levels is then trained along with the weights."""

    fit: Callable[[Tensor, int], Tensor]
    learned: bool = False
    max_bits: int = 8


REGISTRY: dict[str, Rule] = {}


def register(name: str, **traits) -> Callable[[Callable[[Tensor, int], Tensor]], Callable[[Tensor, int], Tensor]]:
    """Make a rule known under `name`; a name that is taken raises ValueError."""

    def add(fit: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
        if name in REGISTRY:
            raise ValueError(f"quantizer {name!r} is registered already")
        REGISTRY[name] = Rule(fit, **traits)
        return fit

    return add


def get(name: str) -> Rule:
    """The rule of that name, or UserError with the names there are."""
    if name not in REGISTRY:
        raise UserError(f"no quantizer {name!r}.{did_you_mean(str(name), REGISTRY)} There are: {', '.join(REGISTRY)}.")
    return REGISTRY[name]


def grid(k: int, device: torch.device | None = None) -> Tensor:
    """k points a distance of 1 apart around 0: -(k - 1) / 2, ..., (k - 1) / 2."""
    return torch.arange(k, dtype=torch.float32, device=device) - (k - 1) / 2


@register("kmeans")
def kmeans(x: Tensor, k: int) -> Tensor:
    """Least squared error (arXiv 2407.10704, section 3.3); see `qprompt.quantization.kmeans`."""
    return fit_sorted(sort(x), k).to(x.dtype)


@register("uniform")
def uniform(x: Tensor, k: int) -> Tensor:
    """Min-max affine: equal steps from the smallest to the largest value."""
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    return low + (high - low) * torch.linspace(0, 1, k, device=x.device)


@register("normal")
def normal(x: Tensor, k: int) -> Tensor:
    """Normal-float: the quantiles (i + 1/2) / k of the normal distribution with the mean and deviation of x."""
    sigma, mu = torch.std_mean(x, dim=-1, keepdim=True, correction=0)
    return mu + sigma * torch.special.ndtri((torch.arange(k, device=x.device) + 0.5) / k)


@register("sign", max_bits=1)
def sign(x: Tensor, k: int) -> Tensor:
    """Binary: -a and +a with a = mean |x|, the least squared error among those (XNOR-Net, arXiv 1603.05279)."""
    return x.abs().mean(-1, keepdim=True) * torch.tensor([-1.0, 1.0], device=x.device)


@register("lsq", learned=True)
def lsq(x: Tensor, k: int) -> Tensor:
    """Where learned steps (LSQ, arXiv 1902.08153) start: s * grid(k), s the best in 64 parts of the largest |x|.

    LSQ's own levels are -2^(b-1)..2^(b-1)-1 times s, which leaves one bit only {-s, 0}; so, ours, a grid around 0.
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
