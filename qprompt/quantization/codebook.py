"""Operations on codebooks, each fast on its device: center, nearest level, lookup, count.

Shapes: G groups of L values x, k levels per group and the k - 1 boundaries between them, ascending. An index is the
number of boundaries below the value, so a value half-way between two levels gets the lower one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LARGE = 2**13  # entries from which a pass over a tensor costs its arithmetic, not its launch, on a CPU
CELLS = 2**12  # of a table
# torch.compiler came in 2.1; code compiled by an older one has no table to leave out.
is_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", lambda: False)


class Table(NamedTuple):
    """Equal cells over the range of one group's boundaries, at most one boundary per cell.

    Attributes:
        low, scale: the cell of t is (t - low) * scale.
        below: (CELLS,) number of boundaries in lower cells.
        bound: (CELLS,) the boundary in the cell, infinite where there is none.
    """

    low: float
    scale: float
    below: Tensor
    bound: Tensor

    def cell(self, t: Tensor) -> Tensor:
        place = (t - self.low).mul_(self.scale).clamp_(0, CELLS - 1)
        return place.to(torch.int32).clamp_(0, CELLS - 1)  # again: NaN is whatever the conversion makes of it

    def assign(self, x: Tensor) -> Tensor:
        """Return indices (L,) of x (L,): exact, since rounding keeps the order of values and so of their cells."""
        at = self.cell(x)
        return self.below.index_select(0, at).add_(x > self.bound.index_select(0, at))


def make_table(bounds: Tensor) -> Table | None:
    """Return the table of bounds (k - 1,) on a CPU; None if two of them would share a cell."""
    low, high = bounds[0].item(), bounds[-1].item()
    if not low < high < float("inf"):
        return None
    table = Table(low, (CELLS - 1) / (high - low), torch.empty(0), torch.full((CELLS,), torch.inf, dtype=bounds.dtype))
    own = table.cell(bounds)
    if not bool((own.diff() > 0).all()):
        return None
    table.bound[own.long()] = bounds
    return table._replace(below=torch.searchsorted(own, torch.arange(CELLS, dtype=torch.int32), out_int32=True))


def center(x: Tensor, large: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return x - mu (G, L) of x (G, L), and its mean mu and standard deviation sigma (G, 1) over all L entries.

    Args:
        large: take the way that is ten times faster than torch.std_mean on a CPU from thousands of entries on, and
            slower below. The two differ by rounding.
    """
    if not large:
        sigma, mu = torch.std_mean(x, -1, correction=0, keepdim=True)
        return x - mu, mu, sigma
    mu = x.mean(-1, keepdim=True)
    centered = x - mu
    return centered, mu, centered.square().mean(-1, keepdim=True).sqrt_()


def assign(x: Tensor, bounds: Tensor, table: Table | None = None) -> Tensor:
    """Return indices (G, L), an integer type, of x (G, L) among bounds (G, k - 1).

    Args:
        table: `make_table` of the bounds, for a single group on a CPU.
    """
    if table is not None and x.device.type == "cpu" and not is_compiling():
        return table.assign(x[0])[None]
    if bounds.shape[1] == 1:
        return (x > bounds).long()
    return torch.searchsorted(bounds, x)


def lookup(levels: Tensor, indices: Tensor) -> Tensor:
    """Return levels (G, k) at indices (G, L): (G, L)."""
    if len(levels) == 1:
        return levels[0].index_select(0, indices[0])[None]
    return levels.gather(1, indices)


def count(indices: Tensor, k: int) -> Tensor:
    """Return how often each of k levels occurs among the indices (G, L) of each group: (G, k) int64."""
    groups = len(indices)
    if indices.device.type == "cpu":
        if groups > 1:
            indices = indices + k * torch.arange(groups)[:, None]
        return torch.bincount(indices.flatten(), minlength=groups * k).view(groups, k)
    return count_by_comparison(indices, k)


def count_by_comparison(indices: Tensor, k: int) -> Tensor:
    """`count` for a GPU, where bincount synchronizes and adds in any order; this does neither."""
    levels = torch.arange(k, device=indices.device).split(max(1, 2**26 // indices.numel()))  # some at a time
    return torch.cat([(indices[:, None] == some[:, None]).sum(-1) for some in levels], dim=1)
