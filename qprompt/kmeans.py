"""Scalar K-Means: the best k levels for one-dimensional data.

On a line, clusters are intervals of the sorted data. So one sort and prefix sums give the cost of any cluster in
constant time, a dynamic program over candidate boundaries finds the best ones together (Lloyd's iterations alone
stop in local optima), and assignment is a bisection.

All tensors here are batched: the last axis holds the n values of one problem.
"""

import torch
from torch import Tensor

from qprompt.errors import UserError


def boundaries(levels: Tensor) -> Tensor:
    """Midpoints between neighbouring sorted levels: (..., k) -> (..., k - 1)."""
    return (levels[..., 1:] + levels[..., :-1]) / 2


def assign(x: Tensor, levels: Tensor) -> Tensor:
    """Index of the nearest level for each value; a value half-way between two takes the lower one.

    `x` (..., n) and sorted `levels` (..., k) give (..., n) int64.
    """
    return torch.searchsorted(boundaries(levels).contiguous(), x.contiguous())


def kmeans(x: Tensor, k: int, init: Tensor | None = None) -> Tensor:
    """Centroids that minimize the sum of squared distances to the nearest one: (..., n) -> sorted (..., k).

    Deterministic. Computed in float64 for any floating input, returned in float32 (float64 for float64 input).
    Where the data hold fewer than k distinct values the surplus centroids repeat the largest value.

    Raises UserError for NaN, infinities, no values, or a k outside 1 to 65536.
    """
    if x.shape[-1] == 0 or not 1 <= k <= 65536:
        raise UserError(f"kmeans got {x.shape[-1]} values and k={k}; expected at least one value and k from 1 to 65536")
    if not bool(torch.isfinite(x).all()):
        raise UserError("kmeans got NaN or infinite values; expected finite ones (did training diverge?)")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    batch, n = x.shape[:-1], x.shape[-1]
    values = x.detach().reshape(-1, n).double().sort(dim=-1).values
    levels = torch.stack([_fit(row, k) for row in values])
    return levels.reshape(*batch, k).to(dtype)


def _fit(x: Tensor, k: int) -> Tensor:
    n = x.numel()
    if k == 1:
        return x.mean().reshape(1)
    zero = x.new_zeros(1)
    s1, s2 = torch.cat([zero, x.cumsum(0)]), torch.cat([zero, (x * x).cumsum(0)])
    m = min(n, max(256, 6 * k))
    if m == n:
        cut = torch.arange(n + 1, device=x.device)
    else:
        measure = x.diff().pow(2 / 3).cumsum(0)
        marks = torch.linspace(0, 1, m - 1, dtype=x.dtype, device=x.device) * measure[-1]
        cut = torch.cat([zero.long(), torch.searchsorted(measure, marks) + 1, zero.long() + n]).clamp(max=n)
    edges = _best_cuts(s1[cut], s2[cut], cut.to(x.dtype), k)
    inner = cut[edges]
    for _ in range(20):
        ends = torch.cat([zero.long(), inner, zero.long() + n])
        count = ends.diff()
        mean = s1[ends].diff() / count.clamp(min=1)
        mean = torch.where(count > 0, mean, x[ends[1:].sub(1).clamp(min=0)])
        mean = mean.cummax(0).values
        inner = torch.searchsorted(x, boundaries(mean), right=True)
    return mean


def _best_cuts(s1: Tensor, s2: Tensor, count: Tensor, k: int) -> Tensor:
    """The k - 1 cuts, as indices into the candidates, of the cheapest partition into at most k intervals."""
    width = (count[None, :] - count[:, None]).clamp(min=1)
    cost = s2[None, :] - s2[:, None] - (s1[None, :] - s1[:, None]) ** 2 / width
    cost = cost.triu().clamp(min=0) + torch.full_like(cost, torch.inf).tril(-1)
    best, choice = cost[0], []
    for _ in range(k - 1):
        best, arg = (best[:, None] + cost).min(dim=0)
        choice.append(arg)
    cuts = [choice[0].new_tensor(len(s1) - 1)]
    for arg in reversed(choice):
        cuts.append(arg[cuts[-1]])
    return torch.stack(cuts[:0:-1])
