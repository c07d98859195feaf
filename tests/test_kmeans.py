"""K-Means against brute force and against an exact dynamic program; assignment against the definition."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qprompt.errors import UserError
from qprompt.quantization.codebook import assign, count, count_by_comparison, make_table
from qprompt.quantization.kmeans import boundaries, fit_sorted, kmeans, spread


def cost(x, levels):
    """Within-cluster sum of squares, in float64."""
    x, levels = np.asarray(x, dtype=np.float64).ravel(), np.asarray(levels, dtype=np.float64)
    levels = np.sort(levels)
    return float(np.square(x - levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, x)]).sum())


def brute_force(x, k):
    """The least cost over all partitions of the sorted values into k intervals."""
    x = np.sort(np.asarray(x, dtype=np.float64))

    def of(partition):
        return sum(np.square(part - part.mean()).sum() for part in np.split(x, partition) if len(part))

    return min(of(cuts) for cuts in itertools.combinations_with_replacement(range(len(x) + 1), k - 1))


def exact(x, k):
    """The optimum by the textbook dynamic program over every cut, O(k n^2)."""
    x = np.sort(np.asarray(x, dtype=np.float64))
    x, n = x - x.mean(), len(x)
    s, q = np.concatenate([[0], x.cumsum()]), np.concatenate([[0], np.square(x).cumsum()])
    count = np.maximum(np.arange(n + 1)[:, None] - np.arange(n + 1)[None], 1)
    interval = np.maximum(q[:, None] - q[None] - np.square(s[:, None] - s[None]) / count, 0)
    interval[np.triu_indices(n + 1, 1)] = np.inf
    best = interval[:, 0]
    for _ in range(k - 1):
        best = (interval + best[None]).min(axis=1)
    return best[-1]


SHAPES = {
    "normal": lambda r, n: r.standard_normal(n),
    "uniform": lambda r, n: r.random(n),
    "heavy tails": lambda r, n: r.standard_cauchy(n),
    "skewed": lambda r, n: np.exp(2 * r.standard_normal(n)),
    "clumps": lambda r, n: r.choice(r.random(30), n) + 1e-4 * r.standard_normal(n),
    "few values": lambda r, n: r.poisson(20, n).astype(float),
    "many values": lambda r, n: np.round(300 * r.standard_normal(n)),
    "outliers": lambda r, n: np.concatenate([r.standard_normal(n - 3), [100, 1000, 1e4]]),
    "two scales": lambda r, n: np.concatenate([1e-3 * r.standard_normal(n - n // 50), r.standard_normal(n // 50)]),
}


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 9), elements=st.floats(-100, 100, width=32)),
    st.integers(1, 5),
)
def test_equals_brute_force(x, k):
    best = brute_force(x, k)
    assert cost(x, kmeans(torch.from_numpy(x), k)) <= best * (1 + 1e-5) + 1e-9 * np.square(x - x.mean()).sum() + 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("n", "k"), [(250, 16), (700, 3), (700, 40), (1500, 16)])
def test_within_a_thousandth_of_the_optimum(shape, n, k):
    x = SHAPES[shape](np.random.default_rng(0), n).astype(np.float32)
    assert cost(x, kmeans(torch.from_numpy(x), k)) <= 1.001 * exact(x, k)


@pytest.mark.parametrize("shape", SHAPES)
def test_optimum_where_every_cut_is_a_candidate(shape):
    """With 12 values a level, or 192; 193 are one more than the coarse step compares."""
    for n, k in ((192, 5), (193, 24), (193, 40)):
        for seed in range(6):
            x = SHAPES[shape](np.random.default_rng(seed), n)
            rounding = 1e-12 * np.square(x - x.mean()).sum()
            assert cost(x, kmeans(torch.from_numpy(x), k)) <= (1 + 1e-7) * exact(x, k) + rounding, (n, k, seed)


@pytest.mark.parametrize("k", [3, 16, 24])
def test_optimum_of_few_distinct_values_beside_rows_of_many(k):
    """At most 192 distinct values: every cut between them is a candidate, however near they are to one another."""
    r = np.random.default_rng(0)
    values = [np.exp(spread * r.standard_normal(190)).cumsum() for spread in (0, 1, 3, 6)]
    rows = np.stack([r.standard_normal(1000), *(r.choice(few, 1000) for few in values)])
    levels = kmeans(torch.from_numpy(rows), k)
    for x, found in zip(rows[1:], levels[1:], strict=True):
        assert cost(x, found) <= (1 + 1e-7) * exact(x, k)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("n", "k"), [(2500, 256), (4000, 64)])
def test_within_a_thousandth_of_the_optimum_for_many_levels(shape, n, k):
    x = SHAPES[shape](np.random.default_rng(1), n).astype(np.float32)
    assert cost(x, kmeans(torch.from_numpy(x), k)) <= 1.001 * exact(x, k)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("n", "k"), [(10_000, 256), (100_000, 4), (100_000, 16), (100_000, 64), (100_000, 256)])
def test_within_a_thousandth_of_another_exact_solver(shape, n, k):
    kmeans1d = pytest.importorskip("kmeans1d")
    x = SHAPES[shape](np.random.default_rng(2), n).astype(np.float32)
    assert cost(x, kmeans(torch.from_numpy(x), k)) <= 1.001 * cost(x, kmeans1d.cluster(x.astype(float), k).centroids)


@pytest.mark.parametrize("k", [2, 16])
def test_large_data_reach_the_optimum_of_their_distribution(k):
    """Lloyd-Max distortion of the unit normal: 0.3634 (1 bit), 0.009501 (4 bit); Max 1960, table I."""
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    assert cost(x, kmeans(x, k)) / x.square().sum().item() == pytest.approx({2: 0.3634, 16: 0.009501}[k], rel=5e-3)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 300])
def test_fewer_distinct_values_than_levels(k):
    x = torch.tensor([3.0, -1.0, 3.0, 0.5] * 80)
    levels = kmeans(x, k)
    assert levels.shape == (k,) and torch.equal(levels, levels.sort().values)
    if k >= 3:
        assert set(levels.tolist()) == {3.0, -1.0, 0.5}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(2, 700), st.integers(0, 2**31))
def test_no_cluster_is_empty_where_values_suffice(k, n, seed):
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    levels = kmeans(x, k)[None]
    assert (count(assign(x[None], boundaries(levels)), k) > 0).sum() == min(k, n)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=20), elements=st.floats(-1e4, 1e4, width=32)),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(1, 17),
)
def test_any_shape_and_type_gives_finite_ascending_levels_within_the_data(x, dtype, k):
    x = torch.from_numpy(x).to(dtype)
    levels = kmeans(x, k)
    assert levels.shape == (*x.shape[:-1], k)
    assert levels.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(levels).all() and (levels.diff() >= 0).all()
    slack = 1e-6 * x.abs().amax(-1).to(levels.dtype) + 1e-30
    assert (levels[..., 0] >= x.amin(-1) - slack).all() and (levels[..., -1] <= x.amax(-1) + slack).all()


@pytest.mark.parametrize(
    "x", [[1e-45, 3e-45, 4e-45, 1e-44], [3e38, -3e38, 1e38, 0.0], [1.0, 1.0 + 1.2e-7, 1.0, 1.0 + 2.4e-7, 7.0]]
)
def test_denormals_huge_and_nearly_equal_values(x):
    x = torch.tensor(x)
    assert torch.equal(kmeans(x, 4), x.unique())


def test_as_many_values_as_levels_are_levels_exactly():
    x = torch.tensor([1e17, 3.0, -1e17, 1.0], dtype=torch.float64)
    assert kmeans(x, 4).tolist() == [-1e17, 1.0, 3.0, 1e17]
    for seed in range(6):  # gaps over many orders of magnitude
        r = np.random.default_rng(seed)
        values = np.unique(np.exp(6 * r.standard_normal(40)).cumsum().astype(np.float32))
        levels = kmeans(torch.from_numpy(np.tile(values, 14)), 40).numpy()
        assert (np.abs(levels - values[:, None]).min(1) <= 1e-5 * values).all()


def test_batch_equals_rows():
    x = torch.randn(3, 5, 600, generator=torch.Generator().manual_seed(0))
    for k in (2, 5):
        rows = torch.stack([kmeans(row, k) for row in x.reshape(-1, 600)])
        assert torch.allclose(kmeans(x, k).reshape(-1, k), rows, atol=1e-6)


def test_batch_too_large_for_one_piece(monkeypatch):
    x = torch.randn(7, 50).sort(-1).values
    whole = fit_sorted(x, 4)
    monkeypatch.setattr("qprompt.quantization.kmeans.CHUNK", 1)
    assert torch.equal(fit_sorted(x, 4), whole)


def test_deterministic_and_independent_of_order():
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    levels = kmeans(x, 16)
    assert torch.equal(kmeans(x, 16), levels) and torch.equal(kmeans(x.flip(0), 16), levels)


def test_warm_start_improves_on_where_it_starts():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5000, generator=g)
    before = kmeans(x, 16)
    moved = x + 0.1 * torch.randn(5000, generator=g)
    assert cost(moved, kmeans(moved, 16, init=before)) <= 1.001 * cost(moved, kmeans(moved, 16))


@pytest.mark.parametrize("shape", ["normal", "uniform"])
@pytest.mark.parametrize(
    ("k", "part", "close"),
    [(2, "low", 1e-9), (2, "high", 5e-5), (2, "middle", 1e-9), (3, "middle", 1e-9)]
    + [(k, "moved", 1e-9) for k in (2, 3, 5)],
)
def test_warm_start_finds_the_optimum_from_a_part_of_the_data(shape, k, part, close):
    for seed in range(3):
        r = np.random.default_rng(seed)
        x = np.sort(SHAPES[shape](r, 1200))
        parts = {"low": x[:400], "high": x[-400:], "middle": x[400:800], "moved": x + 0.1 * r.standard_normal(1200)}
        levels = kmeans(torch.from_numpy(x), k, init=kmeans(torch.from_numpy(parts[part]), k))
        assert cost(x, levels) <= (1 + close) * exact(x, k)


@pytest.mark.parametrize("k", [2, 3, 24])
def test_an_offset_does_not_drown_the_data(k):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert cost(x + 2**32, kmeans(x + 2**32, k)) <= 1.001 * cost(x, kmeans(x, k))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_is_refused(bad):
    with pytest.raises(UserError, match="NaN or infinite"):
        kmeans(torch.tensor([1.0, bad, 2.0]), 2)


@pytest.mark.parametrize(("x", "k"), [([], 2), ([1.0], 0), ([1.0], 2**16 + 1)])
def test_impossible_requests_are_refused(x, k):
    with pytest.raises(UserError, match="at least one"):
        kmeans(torch.tensor(x), k)
    with pytest.raises(UserError, match="floating"):
        kmeans(torch.tensor([1, 2]), 2)


def test_centroids_are_means_and_assignment_is_the_nearest():
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    levels = kmeans(x, 8)
    nearest = (x[:, None] - levels).abs().argmin(1)
    assert torch.equal(assign(x[None], boundaries(levels[None]))[0], nearest)
    means = torch.stack([x[nearest == i].double().mean() for i in range(8)]).float()
    assert torch.allclose(means, levels, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_table_look_up_equals_bisection(k, scale, seed):
    g = torch.Generator().manual_seed(seed)
    bounds = (torch.randn(k, generator=g) * scale).sort().values
    x = torch.randn(2000, generator=g) * scale
    x[: 2 * k] = torch.cat([bounds, bounds.nextafter(torch.tensor(torch.inf))])
    x[-3:] = torch.tensor([torch.inf, -torch.inf, 3e38])
    table = make_table(bounds)
    if table is not None:
        assert torch.equal(table.assign(x).long(), torch.searchsorted(bounds, x))


@pytest.mark.parametrize("k", [2, 4, 16])
@pytest.mark.parametrize("groups", [1, 3])
def test_an_index_is_the_number_of_boundaries_below(k, groups):
    bounds = torch.randn(groups, k - 1).sort().values
    x = torch.cat([bounds, bounds.nextafter(torch.tensor(torch.inf)), torch.randn(groups, 50)], dim=1)
    below = (bounds[:, :, None] < x[:, None]).sum(1)  # of a value on a boundary: the lower level
    assert torch.equal(assign(x, bounds), below)


def test_a_table_is_used_where_one_is_given():
    x, bounds, others = torch.randn(1, 500), torch.tensor([[-1.0, 0, 1]]), torch.tensor([-0.5, 0.5])
    assert torch.equal(assign(x, bounds, make_table(others)).long(), torch.searchsorted(others, x))


def test_table_is_made_where_boundaries_are_apart_and_survives_nan():
    table = make_table(torch.linspace(-2, 2, 15))
    assert table is not None
    assert table.assign(torch.full((3,), torch.nan)).max() <= 15
    assert make_table(torch.tensor([1.0, 1.0, 2.0])) is None
    assert make_table(torch.tensor([1.0])) is None
    assert make_table(torch.tensor([0.0, 1e-9, 1.0])) is None


@pytest.mark.parametrize("groups", [1, 5])
def test_count(groups):
    x = torch.randn(groups, 100)
    bounds = torch.tensor([[-0.5, 0.0, 0.5]]).expand(groups, -1).contiguous()
    indices = torch.searchsorted(bounds, x)
    expected = torch.stack([(indices == i).sum(-1) for i in range(4)], -1)
    assert torch.equal(count(indices, 4), expected)
    assert torch.equal(count_by_comparison(indices, 4), expected)


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "k"), [(2048, 2), (2048, 16), (393216, 16), (3548160, 16), (4096, 256)])
def test_gpu_equals_cpu_without_a_sync(n, k):
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
    rows = x.cuda()[None].sort(-1).values
    torch.cuda.set_sync_debug_mode("error")
    try:
        levels = fit_sorted(rows, k)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert cost(x, levels[0].cpu()) == pytest.approx(cost(x, kmeans(x, k)), rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_one_bad_value_among_any_number_is_refused(n, bad):
    x = torch.arange(n, dtype=torch.float32)
    x[n // 2] = bad
    with pytest.raises(UserError, match="NaN or infinite"):
        kmeans(x, 2)


@example([-1e9, -1e9, 0.1], 2)
@given(st.lists(st.sampled_from([-1e9, -3.0, 0.1, 2.0, 7.5, 1e6]), min_size=1, max_size=40), st.integers(1, 8))
def test_levels_of_few_distinct_values_are_these(values, k):
    distinct = sorted(set(values))
    if len(distinct) > k:
        return
    levels = kmeans(torch.tensor(values, dtype=torch.float64), k)
    assert levels.unique().tolist() == distinct and len(levels) == k


@pytest.mark.parametrize("shape", ["normal", "uniform", "clumps"])
def test_levels_of_a_sample_are_near_the_optimum_and_nearer_with_more_values(shape):
    x = torch.tensor(SHAPES[shape](np.random.default_rng(0), 400_000))
    best = cost(x, kmeans(x, 16))
    small, large = (cost(x, kmeans(x, 16, sample=size)) / best - 1 for size in (2_000, 100_000))
    assert 0 < large < small and large < 0.01


def test_a_sample_is_deterministic_and_all_values_are_the_default():
    x = torch.randn(3, 5_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kmeans(x, 4, sample=700), kmeans(x.clone(), 4, sample=700))
    assert torch.equal(kmeans(x, 4, sample=700)[1], kmeans(x[1], 4, sample=700))
    assert torch.equal(kmeans(x, 4, sample=5_000), kmeans(x, 4)) and torch.equal(
        kmeans(x, 4, sample=9_999), kmeans(x, 4)
    )
    assert not torch.equal(kmeans(x, 4, sample=700), kmeans(x, 4))


@pytest.mark.parametrize("columns", [2, 16, 512, 768, 1000])
def test_a_sample_of_a_matrix_contains_every_column_equally_often(columns):
    """A constant step would take few columns, or one, of a flattened matrix."""
    chosen = spread(columns * 2_000, columns * 100)
    assert len(chosen.unique()) == columns * 100 and chosen.diff().min() > 0
    often = torch.bincount(chosen % columns, minlength=columns)
    assert often.min() >= 75 and often.max() <= 125


def test_a_value_outside_the_sample_that_is_not_finite_is_refused():
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = torch.linspace(0, 1, 1_000)
        outside = next(i for i in range(1_000) if i not in spread(1_000, 10))
        x[outside] = bad
        with pytest.raises(UserError, match="NaN or infinite"):
            kmeans(x, 2, sample=10)


def test_a_sample_smaller_than_the_codebook_is_refused():
    with pytest.raises(UserError, match="sample=3 and k=4"):
        kmeans(torch.randn(100), 4, sample=3)
