"""The Gaussian-noise control."""

import copy

import pytest
import torch
from torch import nn

from qprompt.errors import UserError
from qprompt.quantization.noise import add_noise_, remove_noise_, renew_


def learner():
    module = nn.Module()
    module.ctx = nn.Parameter(torch.randn(4, 500, generator=torch.Generator().manual_seed(0)))
    module.other = nn.Parameter(torch.ones(4, 500))
    return module


def test_strength_and_gradient():
    module = learner()
    plain = module.ctx.detach().clone()
    assert add_noise_(module, "ctx", sigma=0.01) == ["ctx"]
    assert (module.ctx - plain).std().item() == pytest.approx(0.01, rel=0.05)
    module.ctx.square().sum().backward()
    original = module.parametrizations.ctx.original
    assert torch.equal(original, plain)
    assert torch.allclose(original.grad, 2 * module.ctx)


def test_relative_strength():
    module = learner()
    module.ctx.data *= 7
    plain = module.ctx.detach().clone()
    add_noise_(module, "ctx", sigma=0.1, relative=True)
    assert (module.ctx - plain).std().item() == pytest.approx(0.7, rel=0.05)


def test_only_in_training_and_the_same_within_a_step():
    module = learner()
    plain = module.ctx.detach().clone()
    add_noise_(module, ["ctx", "other"], sigma=1.0)
    first = module.ctx.detach().clone()
    assert torch.equal(module.ctx, first)
    renew_(module)
    assert not torch.equal(module.ctx, first)
    assert not torch.equal(module.ctx - plain, module.other - 1)
    assert torch.equal(module.eval().ctx, plain)
    assert remove_noise_(module) == ["ctx", "other"]
    assert torch.equal(module.ctx, plain) and isinstance(module.ctx, nn.Parameter)


def test_added_in_evaluation_it_waits_for_training():
    module = learner().eval()
    plain = module.ctx.detach().clone()
    add_noise_(module, "ctx", sigma=1.0)
    assert torch.equal(module.ctx, plain)


def test_seeded_and_resumed():
    a, b, c = learner(), learner(), learner()
    for module, seed in ((a, 1), (b, 1), (c, 2)):
        add_noise_(module, "ctx", sigma=1.0, seed=seed)
    torch.manual_seed(123)
    for _ in range(3):
        renew_(a), renew_(b), renew_(c)
    assert torch.equal(a.ctx, b.ctx) and not torch.equal(a.ctx, c.ctx)
    fresh = learner()
    add_noise_(fresh, "ctx", sigma=1.0, seed=5)
    fresh.load_state_dict(copy.deepcopy(a.state_dict()))
    assert torch.equal(fresh.ctx, a.ctx)
    renew_(fresh), renew_(a)
    assert torch.equal(fresh.ctx, a.ctx)


def test_mistakes():
    with pytest.raises(UserError, match="Did you mean 'ctx'"):
        add_noise_(learner(), "cxt", sigma=0.1)
    with pytest.raises(UserError, match="sigma=-1"):
        add_noise_(learner(), "ctx", sigma=-1)
