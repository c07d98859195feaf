"""The computation of the paper: values, gradients, and when levels are fitted."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantized import NAMES, Learner, one, train, weights

from qprompt.quantization import quantizers
from qprompt.quantization.api import finish_, quantize_, quantized_parameters, refresh_
from qprompt.quantization.config import QuantConfig

# --- the value -------------------------------------------------------------------------------------------------------


def test_equals_the_formula():
    module, fake, w = one(weights(4, 500), bits=2)
    mu, sigma = w.double().mean(), w.double().std(unbiased=False)
    normalized = (w.double() - mu) / sigma
    c = fake.codebook[0].double()
    nearest = (normalized[..., None] - c).abs().argmin(-1)
    assert torch.equal(module.ctx, (sigma * c + mu).half().float()[nearest])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_takes_exactly_half_precision_levels_in_every_type(dtype, bits):
    module, fake, w = one(weights(4, 500).to(dtype), bits=bits)
    assert module.ctx.dtype == dtype
    levels = fake.encode(w).levels
    assert levels.dtype == torch.float16
    assert set(module.ctx.unique().tolist()) <= set(levels.to(dtype).flatten().tolist())
    assert len(module.ctx.unique()) <= 2**bits
    assert fake.codebook.dtype == torch.float32


@pytest.mark.parametrize("method", quantizers.REGISTRY)
def test_every_method_quantizes_and_lowers_the_error_with_more_bits(method):
    w = weights(4, 500)
    errors = [
        (one(w, bits=bits, method=method)[0].ctx - w).square().mean().item()
        for bits in range(1, quantizers.get(method).max_bits + 1)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < w.var().item() or method == "uniform"


def test_16_bits_are_half_precision():
    w = weights(4, 500)
    module, *_ = one(w, bits=16)
    assert torch.equal(module.ctx, w.half().float())
    assert refresh_(module) == []


def test_levels_follow_mean_and_deviation_without_a_new_fit():
    w = weights(4, 500)
    module, fake, original = one(w.clone(), policy="once")
    before, codebook = module.ctx.detach(), fake.codebook.clone()
    with torch.no_grad():
        original.mul_(2).add_(1)
    refresh_(module)
    assert torch.equal(fake.codebook, codebook)
    assert torch.allclose(module.ctx, 2 * before + 1, atol=1e-3)


def test_without_normalization_levels_stay():
    module, fake, original = one(weights(4, 500), normalize=False)
    before = fake.encode(original).levels
    with torch.no_grad():
        original.mul_(2)
    assert torch.equal(fake.encode(original).levels, before)


@pytest.mark.parametrize(("granularity", "rows"), [("row", 4), ("group", 8)])
def test_granularity_is_the_same_as_tensors_of_their_own(granularity, rows):
    w = weights(4, 64)
    module, fake, _ = one(w, bits=2, granularity=granularity, group_size=32)
    parts = [one(part.clone(), bits=2)[0].ctx for part in w.view(rows, -1)]
    assert fake.codebook.shape == (rows, 4)
    assert torch.allclose(module.ctx.view(rows, -1), torch.stack(parts), atol=1e-5)


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays("float32", hnp.array_shapes(max_dims=3, max_side=12), elements=st.floats(-1e4, 1e4, width=32)),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from([1, 2, 3, 4, 8, 16]),
    st.sampled_from(list(quantizers.REGISTRY)),
    st.sampled_from(["tensor", "row"]),
    st.booleans(),
)
def test_any_finite_weights(array, dtype, bits, method, granularity, normalize):
    bits = min(bits, quantizers.get(method).max_bits)
    w = torch.from_numpy(array).to(dtype)
    config = QuantConfig(method=method, bits=bits, granularity=granularity, normalize=normalize)
    module, fake, original = one(w.clone(), config=config)
    value = module.ctx
    assert value.shape == w.shape and value.dtype == dtype and torch.isfinite(value).all()
    assert torch.equal(value, module.ctx) and torch.equal(original, w)
    value.sum().backward()
    if method != "lsq":
        assert torch.equal(original.grad, torch.ones_like(w))
    assert refresh_(module) == []
    assert torch.equal(module.ctx, value)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-8])
def test_constant_and_single_entries(value):
    for shape in ((1,), (4, 8)):
        module, *_ = one(torch.full(shape, value), bits=2)
        assert torch.equal(module.ctx, torch.full(shape, value).half().float())


# --- the gradient ----------------------------------------------------------------------------------------------------


def test_straight_through_gradient_is_exact():
    module, _, original = one(weights(4, 500))
    g = torch.randn(4, 500)
    (module.ctx * g).sum().backward()
    assert torch.equal(original.grad, g)


def test_gradient_through_sigma_is_the_formula():
    module, fake, original = one(weights(4, 500), bits=2, gradient="stats")
    g = torch.randn(4, 500)
    (module.ctx * g).sum().backward()
    coded = fake.encode(original)
    normalized = ((original - original.mean()) / original.std(unbiased=False)).detach()
    rounding = fake.codebook[0][coded.indices].view_as(normalized) - normalized
    assert torch.allclose(original.grad, g + normalized * (g * rounding).sum() / g.numel(), atol=1e-5)
    plain, *_ = one(weights(4, 500), bits=2)
    assert torch.equal(module.ctx, plain.ctx)


def test_gradient_through_sigma_without_normalization_is_straight_through():
    module, _, original = one(weights(4, 500), gradient="stats", normalize=False)
    g = torch.randn(4, 500)
    (module.ctx * g).sum().backward()
    assert torch.equal(original.grad, g)


def test_gradient_of_a_learned_step_is_the_formula():
    module, fake, original = one(weights(4, 500), bits=2, method="lsq")
    g = torch.randn(4, 500)
    (module.ctx * g).sum().backward()
    coded = fake.encode(original)
    s = fake.step_size.detach()
    scaled = ((original - original.mean()) / coded.sigma / s).detach()
    within = scaled.abs() < 1.5  # the outermost level, as in LSQ's equation 3
    points = quantizers.grid(4)[coded.indices].view_as(scaled)
    slope = torch.where(within, points - scaled, points) * coded.sigma / (2000 * 1.5) ** 0.5
    assert not within.all()
    assert torch.equal(original.grad, g * within)
    assert torch.allclose(fake.step_size.grad, (g * slope).sum().view(1, 1), rtol=1e-3)


def test_learned_step_trains():
    module = Learner()
    quantize_(module, names=NAMES, bits=2, method="lsq")
    before = [fake.step_size.clone() for fake, _ in quantized_parameters(module).values()]
    train(module, 3)
    after = [fake.step_size for fake, _ in quantized_parameters(module).values()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


# --- when levels are fitted ------------------------------------------------------------------------------------------


def drift(original, step):
    """Skew the weights a little: the shape of their distribution changes."""
    with torch.no_grad():
        original.copy_(original + 0.02 * original.sign() * original.abs().sqrt() * (original > 0))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"policy": "once"}, []),
        ({"policy": "every"}, list(range(1, 12))),
        ({"policy": "cac", "kl_threshold": 0.0, "min_interval": 3}, [3, 6, 9]),
        ({"policy": "cac", "kl_threshold": 100.0, "min_interval": 1}, []),
        ({"policy": "every", "start_step": 9}, [9, 10, 11]),
        ({"policy": "once", "start_step": 4}, [4]),
        ({"mode": "ptq", "policy": "every"}, []),
    ],
)
def test_policy(fields, expected):
    module, fake, original = one(weights(4, 500), bits=3, **fields)
    fitted = []
    for step in range(12):
        if refresh_(module) == ["ctx"]:
            fitted.append(step)
        drift(original, step)
    assert fitted == expected
    assert fake.step == 12
    assert fake.fits == len(expected) + (fields.get("mode") != "ptq" and not fields.get("start_step"))


def test_gate_needs_both_time_and_divergence():
    module, fake, original = one(weights(4, 500), bits=3, min_interval=5, kl_threshold=0.05)
    fitted = []
    for step in range(40):
        kl = fake.divergence(original)
        if refresh_(module):
            fitted.append(step)
            assert kl > 0.05
        elif step - max([0, *fitted]) >= 5:
            assert kl <= 0.05 and fake.kl == pytest.approx(kl)
        drift(original, step)
    assert 1 <= len(fitted) < 8
    assert all(b - a >= 5 for a, b in zip([0, *fitted], fitted, strict=False))


def test_divergence_is_the_formula():
    module, fake, original = one(weights(4, 500), bits=2)
    drift(original, 0)
    normalized = (original - original.mean()) / original.std(unbiased=False)
    indices = (normalized.view(-1, 1) - fake.codebook[0]).abs().argmin(1)
    now = torch.stack([(indices == i).sum() for i in range(4)]).double() + 0.5
    reference = fake.reference[0].double() * 2000 + 0.5
    now, reference = now / now.sum(), reference / reference.sum()
    assert fake.divergence(original) == pytest.approx((now * (now / reference).log()).sum().item(), rel=1e-4)


def test_divergence_is_finite_where_a_level_is_empty():
    module, fake, original = one(weights(4, 500), bits=4)
    with torch.no_grad():
        original[original < original.median()] = original.max()
    assert 0 < fake.divergence(original) < 100


def test_before_the_first_fit_weights_pass_unchanged():
    w = weights(4, 500)
    for fields in ({"mode": "ptq"}, {"start_step": 3}):
        module, _, original = one(w.clone(), **fields)
        assert torch.equal(module.ctx, w)
        (module.ctx * 2).sum().backward()
        assert torch.equal(original.grad, torch.full_like(w, 2))
        assert finish_(module) == ["ctx"] and finish_(module) == []
        assert len(module.ctx.unique()) == 2


def test_forward_changes_nothing():
    module = Learner()
    quantize_(module, names=NAMES, bits=2)
    refresh_(module)
    before = copy.deepcopy(module.state_dict())
    for _ in range(3):
        module().sum().backward()
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
