"""Which level is nearest: values to indices, and how many fall on each level.

Shapes: G groups of L values x, k levels a group and their k - 1 boundaries, ascending. An index is the number of
boundaries below the value, so a value half-way between two levels takes the lower one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TABLE_FROM, CELLS = 2**13, 2**12  # values from which a table pays on a CPU; its size
# torch.compiler came in 2.1; code compiled by an older one has no table to leave out.
is_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", lambda: False)


class Table(NamedTuple):
    """Equal cells over the range of the boundaries of one group, at most one boundary in each.

    low, scale: the cell of t is (t - low) * scale. below: (CELLS,) how many boundaries are in lower cells.
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
        """Indices (L,) of x (L,): exact, because rounding keeps the order of values and so of their cells."""
        at = self.cell(x)
        return self.below.index_select(0, at).add_(x > self.bound.index_select(0, at))


def make_table(bounds: Tensor) -> Table | None:
    """The table of bounds (k - 1,) on a CPU; None where two of them would share a cell."""
    low, high = bounds[0].item(), bounds[-1].item()
    if not low < high < float("inf"):
        return None
    table = Table(low, (CELLS - 1) / (high - low), torch.empty(0), torch.full((CELLS,), torch.inf, dtype=bounds.dtype))
    own = table.cell(bounds)
    if not bool((own.diff() > 0).all()):
        return None
    table.bound[own.long()] = bounds
    return table._replace(below=torch.searchsorted(own, torch.arange(CELLS, dtype=torch.int32), out_int32=True))


def assign(x: Tensor, bounds: Tensor, table: Table | None = None) -> Tensor:
    """Indices (G, L), an integer type, of x (G, L) among bounds (G, k - 1); `table`: of the bounds of one group."""
    if table is not None and x.device.type == "cpu" and not is_compiling():
        return table.assign(x[0])[None]
    if bounds.shape[1] == 1:
        return (x > bounds).long()
    return torch.searchsorted(bounds, x)


def lookup(levels: Tensor, indices: Tensor) -> Tensor:
    """levels (G, k) at indices (G, L): (G, L)."""
    if len(levels) == 1:
        return levels[0].index_select(0, indices[0])[None]
    return levels.gather(1, indices)


def count(indices: Tensor, k: int) -> Tensor:
    """How many of the indices (G, L) of each group name each of k levels: (G, k) int64."""
    groups = len(indices)
    if indices.device.type == "cpu":
        if groups > 1:
            indices = indices + k * torch.arange(groups)[:, None]
        return torch.bincount(indices.flatten(), minlength=groups * k).view(groups, k)
    return count_by_comparison(indices, k)


def count_by_comparison(indices: Tensor, k: int) -> Tensor:
    """`count` for a GPU, where bincount waits for the device and adds in any order; this does neither."""
    levels = torch.arange(k, device=indices.device).split(max(1, 2**26 // indices.numel()))  # some at a time
    return torch.cat([(indices[:, None] == some[:, None]).sum(-1) for some in levels], dim=1)
