"""Scalar K-Means: the k levels of least squared error for one-dimensional data.

On a line every cluster is an interval of the sorted values. One sort and one prefix sum therefore give the cost of any
cluster in constant time, and dynamic programming over the boundaries finds all clusters together (Wang and Song,
Ckmeans.1d.dp, 2011). Lloyd's iterations stop in local optima up to tens of percent above the optimum. The search:

1. coarse: all partitions with cuts on a few hundred candidates, spaced by density^(1/4). The levels of an optimal
   quantizer are spaced by density^(1/3) (Panter and Dite, 1951), so each level has about as many candidates nearby;
2. banded: cuts may move by 48 of the finer candidates (at least 12 per level), again all cuts together;
3. local: cuts may move within the cell of their candidate, then twice by 16 values, together. One Lloyd iteration ends
   it.

It is exact where k = 2 (all n - 1 cuts are compared), where there are at most k distinct values, and up to 192 values
or 4 per level (every cut is a candidate in step 1). Elsewhere it is close to the optimum: docs/internals/performance.md
has the excess that was measured. Costs are float64: differences below about 1e-16 of the sum of squared distances to
the mean are not seen, such as those among values near 1 beside an outlier of 1e9.

Every step runs on all rows of a (B, n) batch at once, in float64, on the device of the data and without a host sync;
`sort` moves the data to the host where the device cannot do that (`needs_host`).
Shapes: B problems, n values each, k levels; a cut c separates the values [0, c) from [c, n).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qprompt.errors import UserError

COARSE, PER_LEVEL, BAND, REACH = 192, 12, 48, 16
CHUNK = 2**24  # entries of the largest intermediate tensor


def kmeans(x: Tensor, k: int, init: Tensor | None = None, sample: int | None = None) -> Tensor:
    """Return the k levels that minimize the sum of squared distances of x to its nearest level. Deterministic.

    No cluster is empty (with `sample`: of the sample). If a row has fewer than k distinct values, they are its levels,
    and some are repeated.

    Args:
        x: (..., n) values of any floating type.
        k: number of levels, 1 to 65536.
        init: (..., k), such as the previous codebook. It starts a local search in place of the global one: faster for
            large k, and as good as the data still resemble those that `init` was fitted to.
        sample: fit to this many values of each row (all, if there are fewer). They are spread evenly over the row and
            always the same. Faster for millions of values, at a slightly larger squared error
            (docs/internals/performance.md has the curve). Not for heavy tails: a sample misses the few values that make
            up most of their error. By default all values are used.

    Returns:
        (..., k) ascending, in float32 (float64 for float64).

    Raises:
        UserError: there are no values, a value is NaN or infinite, k is out of range, or the sample has fewer than k
            values.
    """
    if not isinstance(x, Tensor):
        raise UserError(f"kmeans got a {type(x).__name__}, expected a tensor: type torch.tensor(values)")
    if x.numel() == 0 or not x.is_floating_point() or not 1 <= k <= 65536:
        raise UserError(
            f"kmeans got {x.dtype} values of shape {tuple(x.shape)} and k={k}; "
            "expected at least one floating-point value and k from 1 to 65536"
        )
    if sample is not None and sample < k:
        raise UserError(f"kmeans got sample={sample} and k={k}; expected a sample of at least k values")
    rows = x.detach().reshape(-1, x.shape[-1])
    if sample is not None and sample < x.shape[-1]:
        _require_finite(torch.stack(rows.aminmax()))  # the sample alone would miss a NaN
        rows = rows[:, spread(x.shape[-1], sample).to(x.device)]
    rows = sort(rows)
    _require_finite(rows[:, :: max(1, rows.shape[-1] - 1)])  # first and last: NaN sorts last
    start = None if init is None else init.reshape(-1, k).to(rows)
    return fit_sorted(rows, k, start).reshape(*x.shape[:-1], k).to(x.device, rows.dtype)


def _require_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise UserError("kmeans got NaN or infinite values; expected finite ones (did training diverge?)")


def spread(n: int, m: int) -> Tensor:
    """Return m ascending indices below n, one in each of m equal parts of the range.

    The place within a part follows the multiples of the golden ratio. A constant place would take the same columns of
    every row wherever the step divides the length of the rows of a flattened matrix.
    """
    part = torch.arange(m, dtype=torch.float64)
    return ((part + (part * ((5**0.5 - 1) / 2)).frac()) * (n / m)).long().clamp_(max=n - 1)


def needs_host(device: torch.device) -> bool:
    """Return whether K-Means runs on the CPU for data on this device.

    Some have no float64. On a GPU, PyTorch has no prefix sum that repeats its bits, and refuses it if asked for that.
    """
    return device.type not in ("cpu", "cuda") or (
        device.type == "cuda" and torch.are_deterministic_algorithms_enabled()
    )


def sort(x: Tensor) -> Tensor:
    """Sort along the last axis, in float32 or float64; on the CPU if K-Means runs there."""
    x = x if x.dtype == torch.float64 else x.float()
    if needs_host(x.device):
        x = x.cpu()
    if x.device.type == "cpu":
        return torch.from_numpy(np.sort(x.numpy(), axis=-1))  # vectorized: ten times faster than torch.sort
    return x.sort(dim=-1).values


def boundaries(levels: Tensor) -> Tensor:
    """Return the midpoints between neighbouring levels: (..., k) -> (..., k - 1)."""
    return (levels[..., 1:] + levels[..., :-1]) / 2


def fit_sorted(v: Tensor, k: int, init: Tensor | None = None) -> Tensor:
    """Return `kmeans` of finite ascending rows (B, n), without checks and synchronization: (B, k) float64."""
    n = v.shape[-1]
    if n <= k:
        return torch.cat([v, v[:, -1:].expand(-1, k - n)], -1).double()
    size = n + k * (2 * BAND + 1) ** 2 + min(n, max(COARSE, 4 * k)) ** 2
    if len(v) > (rows := max(1, CHUNK // size)):
        starts = [None] * len(v) if init is None else init.split(rows)
        return torch.cat([fit_sorted(part, k, at) for part, at in zip(v.split(rows), starts, strict=False)])
    prefix = v.new_empty(len(v), n + 1, dtype=torch.float64)
    prefix[:, 0] = 0
    torch.cumsum(v, -1, dtype=torch.float64, out=prefix[:, 1:])
    problem = _Problem(v, prefix, prefix[:, -1:] / n, k)
    if k == 1:
        return problem.mean
    if init is not None:
        cuts, exact = problem.search_near(init), False
    elif k == 2:
        return problem.two_levels()
    else:
        cuts, exact = problem.search()
    for _ in range(0 if exact else 1):
        cuts = torch.searchsorted(v, boundaries(problem.levels(cuts)).to(v.dtype), right=True)
    return problem.with_distinct_values(problem.levels(cuts))


class _Problem:
    """One batch: sorted values v (B, n), prefix[:, c] = sum of the first c values, mean (B, 1)."""

    def __init__(self, v: Tensor, prefix: Tensor, mean: Tensor, k: int) -> None:
        self.v, self.prefix, self.mean, self.k, self.n = v, prefix, mean, k, v.shape[-1]
        self.zero = torch.zeros(len(v), 1, dtype=torch.long, device=v.device)

    def levels(self, cuts: Tensor) -> Tensor:
        """Return the means of the clusters between cuts (B, k - 1); an empty cluster repeats the level before it."""
        ends = torch.cat([self.zero, cuts, self.zero + self.n], -1)
        count = ends.diff()
        mean = self.prefix.gather(1, ends).diff() / count
        return torch.where(count > 0, mean, self.v[:, :1].double()).cummax(-1).values

    def with_distinct_values(self, levels: Tensor) -> Tensor:
        """Replace the levels (B, k) of rows with at most k distinct values by these, the last one repeated."""
        few = self.holds_fewer_than(self.k)
        if self.v.device.type == "cpu" and not bool(few.any()):
            return levels
        rank = torch.zeros_like(self.v, dtype=torch.long)
        torch.cumsum(self.v.diff() > 0, -1, out=rank[:, 1:])
        values = self.v[:, -1:].double().expand(-1, self.k).clone()
        return torch.where(few, values.scatter_(1, rank.clamp_(max=self.k - 1), self.v.double()), levels)

    def two_levels(self) -> Tensor:
        """Return the optimum for k = 2 by comparing all n - 1 cuts."""
        c = torch.arange(1, self.n, dtype=torch.float64, device=self.v.device)
        below = self.prefix[:, 1:-1]
        d = below - self.mean * c
        cut = d.square_().div_(c * (self.n - c)).argmax(-1, keepdim=True)
        left, c = below.gather(1, cut), cut + 1
        levels = torch.cat([left / c, (self.prefix[:, -1:] - left) / (self.n - c)], -1)
        # A difference of sums may round a mean out of the range of its values: equal values beside an outlier.
        least = torch.cat([self.v[:, :1], self.v.gather(1, c)], -1)
        most = torch.cat([self.v.gather(1, cut), self.v[:, -1:]], -1)
        return levels.clamp(least, most)

    def search(self) -> tuple[Tensor, bool]:
        """Return cuts (B, k - 1), and whether they are certainly optimal."""
        grid = self.candidates(None, max(COARSE, PER_LEVEL * self.k))
        size = grid.shape[-1] - 1
        few = self.candidates(grid, max(COARSE, 4 * self.k))
        coarse = grid.gather(1, few)[:, None]
        at = few.gather(1, _best_path(self.gains(coarse, coarse).expand(-1, self.k, -1, -1)))
        if few.shape[-1] <= size:
            near = (at[..., None] + torch.arange(-BAND, BAND + 1, device=at.device)).clamp(0, size)
            at = _take(near, self.best_of(_gather(grid, near)))
        cuts = grid.gather(1, at)
        if size == self.n:
            return cuts, few.shape[-1] > size
        cell = grid.gather(1, (at - 1).clamp(min=0)), grid.gather(1, (at + 1).clamp(max=size))
        cuts = self.refine(cuts, *cell)
        for _ in range(2):
            cuts = self.refine(cuts, cuts, cuts)
        return cuts, False

    def search_near(self, init: Tensor) -> Tensor:
        cuts = torch.searchsorted(self.v, boundaries(init).contiguous(), right=True)
        ends = torch.cat([self.zero, cuts, self.zero + self.n], -1)
        cuts = self.refine(cuts, (ends[:, :-2] + cuts) // 2, (ends[:, 2:] + cuts) // 2)
        return self.refine(cuts, cuts, cuts)

    def refine(self, cuts: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the best cuts between `low` and `high`, or within REACH values if that is wider: 33 places per cut."""
        low = torch.minimum(low, cuts - REACH).clamp(min=0)
        high = torch.maximum(high, cuts + REACH).clamp(max=self.n)
        step = torch.arange(REACH + 1, device=cuts.device)
        left = cuts[..., None] - (cuts - low)[..., None] * step.flip(0) // REACH
        right = cuts[..., None] + (high - cuts)[..., None] * step[1:] // REACH
        places = torch.cat([left, right], -1)
        # Never between equal values: move such a cut to the first of them.
        places = torch.searchsorted(self.v, _gather(self.v, places.clamp(max=self.n - 1)).flatten(1)).view_as(places)
        return _take(places, self.best_of(places))

    def candidates(self, grid: Tensor | None, m: int) -> Tensor:
        """Return up to m + 1 cuts of the grid, with both ends, as indices into it. None is the grid of all cuts.

        With at most m distinct values, these are all cuts between them. Otherwise they lie at equal steps of the sum
        of density^(1/4) dx = count^(1/4) * gap^(3/4), where no gap counts for more than a step.
        """
        size = self.n if grid is None else grid.shape[-1] - 1
        if size <= m:
            return torch.arange(size + 1, device=self.v.device).expand(len(self.v), -1)
        if grid is None:
            weight = self.v.diff()
        else:
            weight = _gather(self.v, grid[:, :-1].clamp(max=self.n - 1)).diff()
        few = self.holds_fewer_than(m) if grid is None else (weight > 0).sum(-1, keepdim=True) < m
        root = weight.sqrt_()
        weight = root.sqrt().mul_(root)
        if grid is not None:
            count = grid.diff().to(weight.dtype)
            weight.mul_((count[:, 1:] + count[:, :-1]).sqrt_().sqrt_())
        for _ in range(2):
            weight.clamp_(max=weight.sum(-1, keepdim=True) / m)
        if weight.device.type != "cpu" or bool(few.any()):
            weight = torch.where(few, weight.sign(), weight)
        inner = _passed(weight, m).clamp_(max=size - 1) + 1
        return torch.cat([self.zero, inner, self.zero + size], -1)

    def holds_fewer_than(self, m: int) -> Tensor:
        """Return whether a row has at most m distinct values: (B, 1)."""
        if self.v.device.type == "cpu":  # a sample that holds more decides it
            sample = self.v[:, :: max(1, self.n // (8 * m))]
            if bool(((sample.diff() > 0).sum(-1) >= m).all()):
                return torch.zeros(len(self.v), 1, dtype=torch.bool)
        return (self.v.diff() > 0).sum(-1, keepdim=True) < m

    def best_of(self, places: Tensor) -> Tensor:
        """Return which of its places (B, k - 1, w) each cut takes in the best partition: (B, k - 1)."""
        first = self.zero[..., None].expand(-1, 1, places.shape[-1])
        ends = torch.cat([first, places, first + self.n], 1)
        return _best_path(self.gains(ends[:, :-1], ends[:, 1:]))

    def gains(self, start: Tensor, end: Tensor) -> Tensor:
        """Return what clusters from start (B, j, w) to end (B, j, w) save: (B, j, w of end, w of start).

        It is (sum of x - mean)^2 / count; the squared error is the sum of all (x - mean)^2 less these. An empty
        cluster saves 0, an impossible one -inf.
        """
        total = [_gather(self.prefix, p) - self.mean[..., None] * p for p in (start, end)]
        gain = (total[1][..., :, None] - total[0][..., None, :]).square_()
        count = end.double()[..., :, None] - start.double()[..., None, :]
        reversed_ = count < 0
        return gain.div_(count.clamp_(min=0.5)).masked_fill_(reversed_, -torch.inf)


def _best_path(gain: Tensor) -> Tensor:
    """Dynamic program over k clusters: gain (B, k, w, w) of [cluster, end, start] -> (B, k - 1) chosen cuts.

    The first cluster starts at place 0, the last one ends at place w - 1.
    """
    clusters, width = gain.shape[1:3]
    best: list[Any] = [gain[:, 0, :, 0]]  # best[j][:, e]: the best j + 1 clusters that end at e
    sums = torch.empty_like(gain[:, 0])
    for j in range(1, clusters - 1):
        best.append(torch.add(gain[:, j], best[-1][:, None], out=sums).amax(-1))
    if on_cpu := gain.device.type == "cpu":  # numpy starts small operations faster
        rows, gain, best = np.arange(len(gain)), gain.numpy(), [b.numpy() for b in best]  # type: ignore[assignment]
    else:
        rows = torch.arange(len(gain), device=gain.device)  # type: ignore[assignment]
    at: Any = rows * 0 + (width - 1)
    cuts = []
    for j in range(clusters - 1, 0, -1):
        at = (gain[rows, j, at] + best[j - 1]).argmax(-1)
        cuts.append(at)
    return torch.from_numpy(np.stack(cuts[::-1], -1)) if on_cpu else torch.stack(cuts[::-1], -1)


def _passed(weight: Tensor, m: int) -> Tensor:
    """Where the running sum of weight (B, n) passes each of m - 1 marks, half a step from the ends: (B, m - 1).

    The running sum is taken over blocks, and within the blocks that hold a mark.
    """
    n, block = weight.shape[-1], 64
    whole = n // block * block
    sums = weight[:, :whole].unflatten(-1, (-1, block)).sum(-1, dtype=torch.float64)
    ends = torch.cat([sums, weight[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)], -1).cumsum(-1)
    total = ends[:, -1:]
    marks = total * ((torch.arange(1, m, dtype=torch.float64, device=weight.device) - 0.5) / (m - 1))
    number = torch.searchsorted(ends, marks).clamp_(max=ends.shape[-1] - 1)
    start = torch.where(number > 0, ends.gather(1, (number - 1).clamp(min=0)), 0.0)
    inside = number[..., None] * block + torch.arange(block, device=weight.device)
    steps = _gather(weight, inside.clamp(max=n - 1)).double().cumsum(-1)
    return number * block + torch.searchsorted(steps, (marks - start)[..., None])[..., 0]


def _gather(row: Tensor, index: Tensor) -> Tensor:
    """row (B, n) at index (B, ...)."""
    return row.gather(1, index.flatten(1)).view_as(index)


def _take(places: Tensor, chosen: Tensor) -> Tensor:
    """places (B, j, w) at chosen (B, j): (B, j)."""
    return places.gather(2, chosen[..., None])[..., 0]
