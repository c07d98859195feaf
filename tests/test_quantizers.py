"""Every level rule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qprompt.errors import UserError
from qprompt.quantization import quantizers
from qprompt.quantization.codebook import assign, lookup
from qprompt.quantization.kmeans import boundaries

RULES = [(name, bits) for name, rule in quantizers.REGISTRY.items() for bits in (1, 2, 3, 8) if bits <= rule.max_bits]


def normal_data(n=2000, groups=1):
    return torch.randn(groups, n, generator=torch.Generator().manual_seed(0))


def error(x, levels):
    return (lookup(levels, assign(x, boundaries(levels))) - x).square().mean().item()


@pytest.mark.parametrize(("name", "bits"), RULES)
def test_levels_ascend_and_represent_normal_data(name, bits):
    x = normal_data(groups=3)
    levels = quantizers.get(name).fit(x, 2**bits)
    assert levels.shape == (3, 2**bits) and levels.dtype == torch.float32
    assert (levels.diff() > 0).all()
    assert error(x, levels) < {1: 0.6 if name != "uniform" else 10, 2: 0.9, 3: 0.2, 8: 0.01}[bits]
    assert error(x, quantizers.get("kmeans").fit(x, 2**bits)) <= error(x, levels) * (1 + 1e-6)


@pytest.mark.parametrize(("name", "bits"), RULES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_finite_data_give_finite_ascending_levels(name, bits, data):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 30)))
    x = torch.from_numpy(data.draw(hnp.arrays("float32", shape, elements=st.floats(-1e3, 1e3, width=32))))
    levels = quantizers.get(name).fit(x, 2**bits)
    assert levels.shape == (shape[0], 2**bits)
    assert torch.isfinite(levels).all() and (levels.diff() >= 0).all()


@pytest.mark.parametrize(("name", "bits"), RULES)
def test_scale_and_order_of_the_data(name, bits):
    x = normal_data()
    levels = quantizers.get(name).fit(x, 2**bits)
    assert torch.allclose(quantizers.get(name).fit(3 * x, 2**bits), 3 * levels, rtol=1e-4, atol=1e-5)
    assert torch.allclose(quantizers.get(name).fit(x.flip(-1), 2**bits), levels, atol=1e-5)


def test_uniform_reaches_from_the_smallest_to_the_largest_value():
    levels = quantizers.get("uniform").fit(torch.tensor([[-1.0, 0.3, 2.0]]), 4)
    assert levels[0].tolist() == pytest.approx([-1.0, 0.0, 1.0, 2.0], abs=1e-6)


def test_normal_takes_quantiles():
    levels = quantizers.get("normal").fit(normal_data(100_000), 2)
    assert levels[0].tolist() == pytest.approx([-0.6745, 0.6745], abs=0.01)


def test_sign_takes_the_mean_magnitude():
    assert quantizers.get("sign").fit(torch.tensor([[-1.0, 2.0, -3.0, 6.0]]), 2).tolist() == [[-3.0, 3.0]]


def test_learned_steps_start_at_the_least_squares_step():
    x = normal_data(20_000)
    assert quantizers.get("lsq").fit(x, 2)[0, 1].item() == pytest.approx(math.sqrt(2 / math.pi), rel=0.02)
    levels = quantizers.get("lsq").fit(x, 16)
    assert torch.allclose(levels.diff(), levels.diff()[:, :1].expand(-1, 15), rtol=1e-4)
    assert error(x, levels) == pytest.approx(0.01154, rel=0.05)  # the best uniform quantizer: Max 1960, table II


def test_registry():
    with pytest.raises(UserError, match="Did you mean 'kmeans'"):
        quantizers.get("kmean")
    with pytest.raises(ValueError, match="registered already"):
        quantizers.register("kmeans")(lambda x, k: x)


@pytest.mark.parametrize("name", quantizers.REGISTRY)
def test_rows_of_a_batch_do_not_know_of_each_other(name):
    rule = quantizers.get(name)
    k = 2 if rule.max_bits == 1 else 4
    x = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1e-2], [1.0], [30.0]])
    together = rule.fit(x, k)
    assert together.shape == (3, k)
    for row, levels in zip(x, together, strict=True):
        assert torch.allclose(rule.fit(row[None], k)[0], levels, rtol=1e-5)


@pytest.mark.parametrize("name", quantizers.REGISTRY)
def test_levels_scale_with_the_values(name):
    rule = quantizers.get(name)
    k = 2 if rule.max_bits == 1 else 4
    x = torch.randn(1, 500, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(rule.fit(x / 128, k) * 128, rule.fit(x, k), rtol=1e-5)
