"""Which level is nearest: values to indices, and how many fall on each level.

Shapes: G groups of L values x, k levels a group and their k - 1 boundaries, ascending. An index is the number of
boundaries below the value, so a value half-way between two levels takes the lower one.
"""

import torch
from torch import Tensor

TABLE_FROM, CELLS = 2**15, 4096  # values from which a table pays on a CPU; its size


def assign(x: Tensor, bounds: Tensor) -> Tensor:
    """Indices (G, L), an integer type, of x (G, L) among bounds (G, k - 1)."""
    if len(x) == 1 and x.device.type == "cpu" and x.shape[1] >= TABLE_FROM and not torch.compiler.is_compiling():
        return _by_table(x[0], bounds[0])[None]
    return torch.searchsorted(bounds, x)


def lookup(levels: Tensor, indices: Tensor) -> Tensor:
    """levels (G, k) at indices (G, L): (G, L)."""
    if len(levels) == 1:
        return levels[0].index_select(0, indices[0])[None]
    return levels.gather(1, indices)


def count(x: Tensor, bounds: Tensor) -> Tensor:
    """How many values of each group fall on each level: (G, k) int64."""
    groups, k = len(x), bounds.shape[1] + 1
    if x.device.type == "cpu":
        indices = assign(x, bounds)
        if groups > 1:
            indices = indices + k * torch.arange(groups)[:, None]
        return torch.bincount(indices.flatten(), minlength=groups * k).view(groups, k)
    # On a GPU bincount waits for the device and atomic adds are not deterministic; comparisons are neither.
    below = (x[:, None, :] <= bounds[:, :, None]).sum(-1)
    ends = torch.nn.functional.pad(below, (1, 0)), torch.nn.functional.pad(below, (0, 1), value=x.shape[1])
    return ends[1] - ends[0]


def _by_table(x: Tensor, bounds: Tensor) -> Tensor:
    """`searchsorted` for one large group, several times faster: one look-up, and one comparison within the cell.

    Rounding keeps the order of values, so a cell below that of a boundary holds only smaller values.
    """
    low, high = bounds[0].item(), bounds[-1].item()
    if not low < high < float("inf"):
        return torch.searchsorted(bounds, x)

    def cell(t: Tensor) -> Tensor:
        place = (t - low).mul_((CELLS - 1) / (high - low)).clamp_(0, CELLS - 1)
        return place.to(torch.int32).clamp_(0, CELLS - 1)  # again: NaN is whatever the conversion makes of it

    own = cell(bounds)
    if not bool((own.diff() > 0).all()):
        return torch.searchsorted(bounds, x)
    below = torch.searchsorted(own, torch.arange(CELLS, dtype=torch.int32), out_int32=True)
    bound = torch.full((CELLS,), torch.inf, dtype=bounds.dtype).index_put_((own.long(),), bounds)
    at = cell(x)
    return below.index_select(0, at).add_(x > bound.index_select(0, at))
