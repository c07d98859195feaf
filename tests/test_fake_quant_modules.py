"""Fake quantization wherever PyTorch modules are used, and what it says of mistakes."""

import copy
import io
import pickle

import pytest
import torch
from quantized import NAMES, Learner, one, train, weights
from torch import nn
from torch.nn.utils import parametrize

import qprompt
from qprompt.errors import UserError
from qprompt.quantization.api import dequantize_, quantize_, quantized_parameters, refresh_
from qprompt.quantization.config import QuantConfig

# --- wherever modules are used ---------------------------------------------------------------------------------------


def test_parameters_keep_their_identity_and_train():
    module = Learner()
    before = dict(module.named_parameters())
    optim = torch.optim.SGD(module.parameters(), lr=0.1)
    names = quantize_(module, names=NAMES)
    assert names == ["ctx", "deep.0", "deep.1", "proj.weight"]
    for name, (_, original) in quantized_parameters(module).items():
        assert original is before[name]
    old = module.ctx.detach().clone()
    module().sum().backward()
    optim.step()
    assert not torch.equal(module.ctx, old)
    assert len(module.ctx.unique()) == 2


def test_dequantize():
    module = Learner()
    quantize_(module, names=NAMES, bits=2)
    value, original = module.ctx.detach().clone(), module.parametrizations.ctx.original.detach().clone()
    other = copy.deepcopy(module)
    assert dequantize_(module) == ["ctx", "deep.0", "deep.1", "proj.weight"]
    assert torch.equal(module.ctx, value) and isinstance(module.ctx, nn.Parameter)
    assert module.state_dict().keys() == Learner().state_dict().keys()
    assert torch.equal(other.ctx, value)  # a copy shares its class with the module it was made from
    dequantize_(other, keep="original")
    assert torch.equal(other.ctx, original)
    with pytest.raises(UserError, match="expected 'quantized' or 'original'"):
        dequantize_(other, keep="both")


def test_deepcopy_is_independent():
    module = Learner()
    quantize_(module, names=NAMES, bits=2, policy="every")
    twin = copy.deepcopy(module)
    expected = twin.ctx.detach().clone()
    train(module, 3)
    assert torch.equal(twin.ctx, expected) and quantized_parameters(twin)["ctx"][0].step == 0
    train(twin, 3)
    assert torch.equal(twin(), module())


@pytest.mark.parametrize("method", ["kmeans", "lsq"])
@pytest.mark.parametrize("pickled", [False, True])
def test_resumed_run_equals_an_uninterrupted_one(method, pickled):
    config = QuantConfig(bits=3, method=method, min_interval=2, kl_threshold=1e-4)
    whole, cut = Learner(), Learner()
    for module in (whole, cut):
        quantize_(module, config, NAMES)
    train(whole, 30)
    train(cut, 13)
    file = io.BytesIO()
    if pickled:
        state = pickle.loads(pickle.dumps(cut.state_dict()))
    else:
        torch.save(cut.state_dict(), file)
        state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    resumed = Learner(seed=9)
    quantize_(resumed, config, NAMES)
    resumed.load_state_dict(state)
    train(resumed, 17, start=13)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert method == "lsq" or quantized_parameters(whole)["ctx"][0].fits > 2


def test_gradient_accumulation_sees_one_set_of_levels():
    module, fake, original = one(weights(4, 500), bits=2, policy="every")
    refresh_(module)
    reads = []
    for _ in range(4):
        reads.append(module.ctx)
        reads[-1].sum().backward()
    assert all(torch.equal(read, reads[0]) for read in reads)
    assert torch.equal(original.grad, torch.full((4, 500), 4.0)) and fake.step == 1


def test_cached_reads_are_the_same_values():
    module = Learner()
    quantize_(module, names=NAMES, bits=2)
    expected = module()
    with parametrize.cached():
        assert module.ctx is module.ctx
        assert torch.equal(module(), expected)
        module().sum().backward()
    assert module.parametrizations.ctx.original.grad is not None


def test_tied_reads_add_their_gradients():
    module = Learner()
    quantize_(module, names="ctx")
    (module.ctx.sum() + 2 * module.ctx.sum()).backward()
    assert torch.equal(module.parametrizations.ctx.original.grad, torch.full((4, 64), 3.0))


def test_half_precision_module_keeps_its_levels():
    module = Learner()
    quantize_(module, names=NAMES, bits=4, method="kmeans")
    learned = Learner()
    quantize_(learned, names="ctx", bits=4, method="lsq")
    step = learned.parametrizations.ctx[0].step_size.detach().clone()
    before = {name: fake.codebook.clone() for name, (fake, _) in quantized_parameters(module).items()}
    module.half(), learned.half()
    for name, (fake, original) in quantized_parameters(module).items():
        assert original.dtype == torch.float16 and fake.codebook.dtype == torch.float32
        assert torch.equal(fake.codebook, before[name])
    assert module.ctx.dtype == torch.float16
    refresh_(module)
    assert torch.equal(learned.parametrizations.ctx[0].step_size, step)
    module.to(torch.bfloat16), module.to("cpu"), module.float()
    assert torch.equal(module.parametrizations.ctx[0].codebook, before["ctx"])


def test_autocast_changes_no_level():
    module = Learner()
    quantize_(module, names=NAMES, bits=2, gradient="stats")
    expected = module.ctx
    with torch.autocast("cpu", dtype=torch.bfloat16):
        refresh_(module)
        assert torch.equal(module.ctx, expected) and module.ctx.dtype == torch.float32
        module().sum().backward()
    assert torch.isfinite(module.parametrizations.ctx.original.grad).all()


@pytest.mark.parametrize("method", ["kmeans", "lsq"])
@pytest.mark.filterwarnings("ignore:Guards may run slower")  # what torch says of Python 3.13.0
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch 2.4 of its own code
def test_compiled_equals_eager(method):
    module = Learner()
    quantize_(module, names=NAMES, bits=2, method=method)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    module().sum().backward()
    expected, grad = module(), module.parametrizations.ctx.original.grad.clone()
    module.zero_grad()
    compiled().sum().backward()
    assert torch.equal(compiled(), expected)
    assert torch.allclose(module.parametrizations.ctx.original.grad, grad)
    with torch.no_grad():
        module.parametrizations.ctx.original.mul_(2)
        module.parametrizations.ctx[0].fit(module.parametrizations.ctx.original)
    assert torch.equal(compiled(), module())


def test_large_tensors_equal_their_definition():
    module, fake, original = one(weights(200, 500), bits=4)
    assert fake.table is not None
    normalized, mu, sigma = fake.normalize(original)
    nearest = torch.searchsorted(fake.mids, normalized)
    assert torch.equal(module.ctx, (sigma * fake.codebook + mu).half().float()[0][nearest].view(200, 500))
    assert torch.allclose(sigma, original.std(unbiased=False)) and torch.allclose(mu, original.mean())


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bits": 0}, "bits=0"),
        ({"bits": 17}, "bits=17"),
        ({"bits": True}, "bits=True"),
        ({"bits": 2.0}, "bits=2.0"),
        ({"method": "sign", "bits": 2}, "at most 1"),
        ({"method": "kmean"}, "Did you mean 'kmeans'"),
        ({"policy": "CAC"}, "Did you mean 'cac'"),
        ({"mode": "qta"}, "qat, ptq"),
        ({"granularity": "token"}, "tensor, row, group"),
        ({"gradient": "stel"}, "Did you mean 'ste'"),
        ({"min_interval": 0}, "min_interval=0"),
        ({"kl_threshold": -1}, "kl_threshold=-1"),
        ({"kl_threshold": float("nan")}, "kl_threshold=nan"),
        ({"start_step": 1.5}, "whole number"),
        ({"normalize": 1}, "normalize=1"),
        ({"include": "ctx"}, "('ctx',)"),
    ],
)
def test_config_names_what_is_wrong(fields, words):
    with pytest.raises(UserError) as error:
        QuantConfig(**fields)
    assert words in str(error.value)


def test_quantize_names_what_is_wrong_and_changes_nothing():
    module = Learner()
    for arguments, words in (
        ({"names": ["cxt"]}, "Did you mean 'ctx'"),
        ({"names": []}, "nothing to quantize"),
        ({"names": "ctx", "granularity": "group", "group_size": 100}, "does not divide"),
        ({"names": ["deep.0", "ctx"], "exclude": ("*",)}, "nothing to quantize"),
    ):
        with pytest.raises(UserError, match=words):
            quantize_(module, **arguments)
    for bad in (float("nan"), float("inf"), 1e5):
        with torch.no_grad():
            module.ctx[0, 0] = bad
        with pytest.raises(UserError, match="ctx holds"):
            quantize_(module, names=NAMES)
        assert list(module.state_dict()) == list(Learner().state_dict())


def test_include_and_exclude_choose():
    module = Learner()
    config = QuantConfig(include=("*",), exclude=("proj.*", "deep.1"))
    assert quantize_(module, config, names=["proj.weight"]) == ["ctx", "deep.0"]
    with pytest.raises(UserError, match="ctx is quantized or parametrized already"):
        quantize_(module, names="ctx")  # quantized already


def test_diverged_training_is_named():
    module, _, original = one(weights(4, 500), policy="every")
    refresh_(module)
    with torch.no_grad():
        original[0, 0] = float("nan")
    with pytest.raises(UserError, match="ctx holds NaN.*learning rate"):
        refresh_(module)
    gated, _, original = one(weights(4, 500), min_interval=1)
    refresh_(gated)
    with torch.no_grad():
        original[0, 0] = float("nan")
    with pytest.raises(UserError, match="ctx holds NaN"):
        refresh_(gated)


def test_state_of_another_quantization_is_refused():
    module, *_ = one(weights(4, 500), bits=2)
    other, *_ = one(weights(4, 500), bits=2, normalize=False)
    with pytest.raises(UserError, match="normalize=True"):
        other.load_state_dict(module.state_dict())


def test_public_names():
    assert set(dir(qprompt)) >= {
        "QuantConfig",
        "quantize_",
        "refresh_",
        "finish_",
        "dequantize_",
        "kmeans",
        "save",
        "load",
    }
    for name in qprompt.__all__:
        assert getattr(qprompt, name) is not None


@pytest.mark.parametrize("gradient", ["ste", "stats"])
def test_gradients_by_torch_func(gradient):
    module = Learner()
    quantize_(module, names=NAMES, bits=2, gradient=gradient)
    refresh_(module)
    module().sum().backward()
    refresh_(module)
    values = {name: p.detach() for name, p in module.named_parameters()}
    grads = torch.func.grad(lambda values: torch.func.functional_call(module, values, ()).sum())(values)
    assert all(torch.allclose(grads[name], p.grad) for name, p in module.named_parameters())


def integers():
    module = nn.Module()
    module.n = nn.Parameter(torch.arange(4), requires_grad=False)
    return module


def done(module):
    quantize_(module, names="ctx")
    return module


MISTAKES = {
    "quantized twice": (lambda: quantize_(done(Learner()), names="ctx"), "call qprompt.dequantize_(module) first"),
    "integers": (lambda: quantize_(integers(), names="n"), "n has type torch.int64, expected a floating-point"),
    "a tensor": (lambda: quantize_(torch.ones(3, 2), names="ctx"), "holder.ctx = torch.nn.Parameter(tensor)"),
    "a parameter": (lambda: quantize_(Learner().ctx, names="ctx"), "expected a module, got a tensor of shape"),
    "a dict as config": (lambda: quantize_(Learner(), {"bits": 2}, names="ctx"), "Type: QuantConfig(bits=2)"),
    "names as config": (lambda: quantize_(Learner(), "ctx"), "Type: config=qprompt.QuantConfig(bits=1)"),
    "bit": (lambda: quantize_(Learner(), names="ctx", bit=1), "QuantConfig has no 'bit'. Did you mean 'bits'?"),
    "tensors as names": (lambda: quantize_(Learner(), names=[Learner().ctx]), "such as 'ctx', got Parameter"),
    "no names": (lambda: quantize_(Learner()), "name the parameters, e.g. names=['ctx']"),
    "refresh of another module": (lambda: refresh_(Learner()), "pass one that qprompt.quantize_ was called on"),
    "refresh of a state dict": (
        lambda: refresh_(Learner().state_dict()),
        "a torch.nn.Module, got OrderedDict",
    ),
    "noise on a tensor": (lambda: qprompt.add_noise_(torch.ones(3), "ctx", 0.1), "expected a module, got a tensor"),
    "a module as state dict": (lambda: qprompt.pack(Learner(), "x"), "type module.state_dict()"),
    "a path as state dict": (lambda: qprompt.load_state_dict_(Learner(), "a.pt"), "torch.load(path, weights_only"),
    "kmeans of a list": (lambda: qprompt.kmeans([1.0, 2.0], 2), "type torch.tensor(values)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_with_what_to_type(mistake):
    call, words = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        call()
    assert words in str(error.value)
