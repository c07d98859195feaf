"""Level rules: what the k = 2^b levels of a normalized tensor are.

A rule is a function ``fit(x, k) -> levels``: x (..., n) float32 gives sorted (..., k). `REGISTRY` is the only list.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from qprompt.errors import UserError, did_you_mean
from qprompt.kmeans import kmeans

Rule = Callable[[Tensor, int], Tensor]
REGISTRY: dict[str, Rule] = {}


def register(name: str) -> Callable[[Rule], Rule]:
    """Make a rule known under `name`; a name that is taken raises."""

    def add(rule: Rule) -> Rule:
        if name in REGISTRY:
            raise ValueError(f"quantizer {name!r} is registered already")
        REGISTRY[name] = rule
        return rule

    return add


def get(name: str) -> Rule:
    if name not in REGISTRY:
        raise UserError(f"no quantizer {name!r}.{did_you_mean(name, REGISTRY)} There are: {', '.join(REGISTRY)}.")
    return REGISTRY[name]


register("kmeans")(kmeans)


@register("uniform")
def uniform(x: Tensor, k: int) -> Tensor:
    """Min-max affine: k equidistant levels from the smallest to the largest value."""
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    return low + (high - low) * torch.linspace(0, 1, k, dtype=x.dtype, device=x.device)
