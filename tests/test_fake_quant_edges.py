"""What mutation testing found untested: equalities, weights that diverged before the end, a learned step that moved."""

import pytest
import torch
from quantized import NAMES, Learner, one, weights
from torch import nn

from qprompt.errors import UserError
from qprompt.quantization.api import finish_, quantize_, quantized_parameters, refresh_
from qprompt.quantization.codebook import lookup
from qprompt.quantization.fake_quantize import FakeQuantize
from qprompt.quantization.state_dict_hooks import add_plain_state_dict_hooks_
from qprompt.quantization.state_dicts import load_state_dict_


def test_weights_that_diverged_are_refused_at_the_end_too():
    module, _, original = one(weights(2, 8), mode="ptq")
    original.data[0, 0] = torch.nan
    with pytest.raises(UserError, match="ctx holds NaN or infinite values: training diverged"):
        finish_(module)


def test_a_divergence_that_equals_the_threshold_keeps_the_levels():
    module, fake, _ = one(weights(4, 64), min_interval=1, kl_threshold=0.0)
    for _ in range(3):
        refresh_(module)
    assert fake.kl == 0 and fake.fits == 1


def test_the_largest_number_of_half_precision_can_be_quantized():
    one(torch.tensor([[65504.0, -65504.0, 0.0]]))
    with pytest.raises(UserError, match="half precision cannot hold"):
        one(torch.tensor([[65505.0, 0.0]]))


def test_a_learned_step_that_moved_decides_which_level_is_nearest():
    module, fake, original = one(weights(4, 64), bits=2, method="lsq")
    refresh_(module)
    with torch.no_grad():
        fake.step_size.mul_(3)
    distance = fake.normalize(original)[0][..., None] - fake.normalized_levels()[:, None]
    assert torch.equal(fake.encode(original).indices.long(), distance.abs().argmin(-1))


def test_the_forward_pass_takes_what_refresh_computed(monkeypatch):
    module, *_ = one(weights(4, 64))
    refresh_(module)
    monkeypatch.setattr(FakeQuantize, "encode", lambda *_: pytest.fail("computed again"))
    assert len(module.ctx.unique()) == 2


def test_a_learned_step_starts_at_the_levels_that_were_fitted():
    module, fake, _ = one(weights(4, 64), bits=2, method="lsq")
    refresh_(module)
    assert torch.allclose(fake.normalized_levels(), fake.codebook) and bool((fake.codebook.diff() > 0).all())


def test_16_bits_have_nothing_to_learn_nor_to_fit_again():
    module, fake, _ = one(weights(4, 64), bits=16, method="lsq", min_interval=1, kl_threshold=0.0)
    for _ in range(3):
        refresh_(module)
    assert fake.step_size is None and fake.fits == 1


def test_a_state_from_before_the_first_fit_is_loaded_as_such():
    module, _, original = one(weights(4, 64), mode="ptq")
    other, fake, _ = one(weights(4, 64, seed=1), mode="ptq")
    other.load_state_dict(module.state_dict())
    assert not fake.active and torch.equal(other.ctx, original)


def test_a_state_after_one_fit_is_loaded_as_fitted():
    module, *_ = one(weights(4, 64))
    refresh_(module)
    other, *_ = one(weights(4, 64, seed=1))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.ctx, module.ctx)


def test_the_gradient_through_sigma_is_that_of_the_formula_for_a_few_entries():
    module, fake, original = one(weights(1, 8), gradient="stats")
    refresh_(module)
    g = weights(1, 8, seed=2)
    (module.ctx * g).sum().backward()
    normalized = fake.normalize(original)[0]
    residual = lookup(fake.codebook, fake.encode(original).indices) - normalized
    assert torch.allclose(original.grad, g + normalized / 8 * (g * residual).sum(), rtol=1e-4, atol=1e-7)


def test_a_single_number_is_a_row():
    assert one(torch.tensor(0.5), granularity="row")[1].groups == 1


def test_the_gradient_through_sigma_is_that_of_each_row():
    rows = weights(3, 64)
    module, *_, whole = one(rows.clone(), gradient="stats", granularity="row")
    refresh_(module)
    g = weights(3, 64, seed=2)
    (module.ctx * g).sum().backward()
    for i in range(3):
        alone, *_, row = one(rows[i : i + 1].clone(), gradient="stats")
        refresh_(alone)
        (alone.ctx * g[i : i + 1]).sum().backward()
        assert torch.allclose(row.grad[0], whole.grad[i], rtol=1e-4, atol=1e-7)


def test_a_learned_step_passes_the_levels_exactly_with_gradients():
    module, fake, original = one(weights(4, 500), method="lsq", bits=2)
    assert module.ctx.requires_grad
    assert torch.equal(module.ctx, fake.encode(original).values.view_as(original))


def test_a_state_holds_levels_and_shares_and_what_was_counted():
    module, fake, _ = one(weights(4, 500), bits=2)
    own = {key.rpartition(".")[2] for key in module.state_dict()}
    assert own == {"original", "codebook", "reference", "_extra_state"}
    assert fake.kl == 0  # just fitted


def test_tied_parameters_are_refused_with_what_to_type():
    module = nn.Module()
    module.ctx = nn.Parameter(weights(4, 8))
    module.other = nn.Module()
    module.other.ctx = module.ctx
    with pytest.raises(UserError, match=r"ctx is also other.ctx: .*other.ctx = torch.nn.Parameter\(ctx.detach"):
        quantize_(module, names="ctx")
    assert not quantized_parameters(module)
    module.other.ctx = nn.Parameter(module.ctx.detach().clone())
    assert quantize_(module, names="ctx") == ["ctx"]


def test_gradients_by_torch_func_for_some_of_the_tensors():
    module = Learner()
    quantize_(module, names=NAMES, bits=2)
    some = {"proj.bias": module.proj.bias.detach()}
    plain = torch.autograd.grad(module().square().sum(), list(module.parameters()))
    grads = torch.func.grad(lambda values: torch.func.functional_call(module, values, ()).square().sum())(some)
    names = [name for name, _ in module.named_parameters()]
    assert torch.allclose(grads["proj.bias"], plain[names.index("proj.bias")])
    scales = torch.tensor([0.5, 2.0])

    def loss(scale):
        return (torch.func.functional_call(module, some, ()) * scale).sum()

    many = torch.func.vmap(torch.func.grad(loss))(scales)
    assert torch.allclose(many, module().sum().detach().expand(2))


@pytest.mark.parametrize("entry", ["codebook", "reference", "_extra_state"])
def test_full_precision_weights_without_their_codebook_are_refused(entry):
    module, _, _ = one(weights(4, 64), bits=2)
    other, *_ = one(weights(4, 64, seed=1), bits=2)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = other.state_dict()
    del state[f"parametrizations.ctx.0.{entry}"]
    with pytest.raises(UserError, match=f"parametrizations.ctx.0.{entry}"):
        load_state_dict_(module, state)
    assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items() if key in state)
    add_plain_state_dict_hooks_(module)
    with pytest.raises(RuntimeError, match=f"parametrizations.ctx.0.{entry}"):
        module.load_state_dict({key: value for key, value in state.items() if key != "ctx"}, strict=False)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"step": 1}', '{"step": -1, "last_fit": 0, "fits": 0, "config": {}}']
)
def test_a_damaged_quantization_state_is_named(text):
    module, *_ = one(weights(4, 64))
    state = module.state_dict()
    state["parametrizations.ctx.0._extra_state"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    with pytest.raises(UserError, match="quantization state .* is damaged"):
        load_state_dict_(module, state)


def test_16_bit_tensors_of_any_size_load(tmp_path):
    module, *_ = one(weights(128, 128), bits=16)
    other, *_ = one(weights(128, 128, seed=1), bits=16)
    load_state_dict_(other, module.state_dict())
    assert torch.equal(other.ctx, module.ctx)
