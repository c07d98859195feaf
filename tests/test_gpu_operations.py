"""What computes on a GPU in few kernels, computed here on a CPU, against the plain path and the model's own modules."""

import copy

import pytest
import torch
from equality import assert_close
from test_prompted_encoding import NAMES, reference, text_with_gradients, with_gradients  # noqa: F401
from torch import nn

from qprompt.backbones import convert_weights_, load_clip
from qprompt.prompted_clip import (
    encode_image,
    encode_text,
    gpu_operations,
    initial_context,
    model,
    normalize,
    prompt_layout,
    row_blocks,
    text,
)
from qprompt.prompted_clip.layout import spread


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    for module in (gpu_operations, model, text):
        monkeypatch.setattr(module, "launches_decide", lambda device: True)


@pytest.mark.parametrize("block_rows", [8, 256])  # a class or two in a block, all
@pytest.mark.parametrize("kind", ["generic", "class_specific", "instance"])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("n_context, words", [(4, "a photo of a"), (3, "X X X")])
def test_text(clip_model, reference, monkeypatch, n_context, words, position, kind, block_rows):  # noqa: F811
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", block_rows)
    prompts = prompt_layout(clip_model, NAMES, words, n_context, position, kind == "class_specific")
    assert (prompts.row_blocks().copies > 1) == (block_rows < 256)
    assert_close(*reference(text_with_gradients(clip_model, prompts, n_context, kind)))


@pytest.mark.parametrize("n_prompts, depth", [(2, 4), (1, 2), (3, 1)])
def test_images(clip_model, reference, n_prompts, depth):  # noqa: F811
    image = torch.randn(3, 3, 32, 32)
    prompts = [torch.randn(n_prompts, 128, requires_grad=True) for _ in range(depth)]

    def compute():
        return with_gradients(encode_image(clip_model, image, prompts[0], prompts[1:]), prompts)

    assert_close(*reference(compute))


@pytest.mark.parametrize("position", ["end", "front"])
def test_the_error_of_half_precision_is_that_of_the_plain_path(clip_file, reference, position):  # noqa: F811
    exact, half = load_clip("any", clip_file), load_clip("any", clip_file)
    convert_weights_(half, torch.bfloat16)
    errors = []
    for seed in range(8):  # the errors of one context are up to twice as large, or half
        torch.manual_seed(seed)
        context = initial_context(exact, 4).requires_grad_()

        def compute(clip_model, context=context):
            prompts = prompt_layout(clip_model, NAMES, "X X X X", 4, position)
            return with_gradients(encode_text(clip_model, prompts, context).float(), [context])

        wanted = compute(exact)
        results = reference(lambda compute=compute: compute(half))
        errors.append([[((a - b).norm() / b.norm()).item() for a, b in zip(r, wanted, strict=True)] for r in results])
    for plain, fast in torch.tensor(errors).mean(0).T:  # of features, of gradients
        assert 0 < fast < 1.5 * plain < 0.1


# --- single operations


def test_layer_norm_differs_by_the_rounding_of_its_weights(clip_model):
    module = copy.deepcopy(clip_model.ln_final)
    x = (3 * torch.randn(50, 64) + 1).bfloat16().requires_grad_()
    eps, slope = torch.finfo(torch.bfloat16).eps, torch.linspace(-1, 1, 64)
    for exact in (False, True):
        if exact:  # weights that half precision holds: the same function
            for parameter in module.parameters():
                parameter.data = parameter.data.bfloat16().float()
        wanted, got = module(x), gpu_operations.layer_norm(module, x)
        assert got.dtype == torch.bfloat16
        assert ((got - wanted).abs() <= eps * (wanted.abs() + 1) * (0.5 if exact else 1)).all()
        gradients = [torch.autograd.grad((y * slope).sum(), x)[0].float() for y in (wanted, got)]
        assert (gradients[0] - gradients[1]).norm() <= eps * gradients[0].norm()


def test_what_is_trained_or_watched_is_computed_by_its_module(clip_file):
    clip_model = load_clip("any", clip_file)
    block, x, seen = clip_model.transformer.resblocks[0], torch.randn(2, 5, 64), []
    norm, half = block.ln_1, x.bfloat16()
    norm.register_forward_hook(lambda *_: seen.append("norm"))
    block.mlp.c_proj.register_forward_hook(lambda *_: seen.append("c_proj"))
    gpu_operations.layer_norm(norm, half)
    assert seen == ["norm"] and gpu_operations.mlp(block.mlp, x) is None
    other = clip_model.transformer.resblocks[1]
    assert gpu_operations.mlp(other.mlp, x) is not None
    other.mlp.c_fc.bias.requires_grad_()
    assert gpu_operations.mlp(other.mlp, x) is None
    assert gpu_operations.mlp(nn.Sequential(nn.Linear(64, 9), nn.GELU(), nn.Linear(9, 64)), x) is None


def test_mlp(clip_model):
    modules = clip_model.transformer.resblocks[0].mlp
    x = (4 * torch.randn(3, 7, 64)).requires_grad_()
    results = [[y, *torch.autograd.grad(y.square().sum(), x)] for y in (modules(x), gpu_operations.mlp(modules, x))]
    assert_close(*results, tolerance=2e-6)


def test_a_derived_tensor_follows_its_parameter():
    weight, made = nn.Parameter(torch.ones(3), requires_grad=False), []

    def half():
        return gpu_operations.derived(weight, "half", lambda p: made.append(1) or p.half())

    with torch.inference_mode():
        assert half().dtype == torch.float16
    assert not half().is_inference() and half() is half() and len(made) == 1
    weight.mul_(2)
    assert half().tolist() == [2.0] * 3 and len(made) == 2
    weight.data = torch.zeros(3)
    assert half().tolist() == [0.0] * 3
    with torch.inference_mode():
        weight = nn.Parameter(torch.ones(3), requires_grad=False)  # its changes are not counted
        assert half().tolist() == [1.0] * 3 and weight.mul_(2).tolist() == half().tolist()


@pytest.mark.parametrize("shape", [(5, 16), (2, 5, 16)])
def test_rows_of_unit_length(shape, monkeypatch):
    x = torch.randn(shape, requires_grad=True)
    got = normalize(x)
    monkeypatch.setattr(model, "launches_decide", lambda device: False)
    weights = torch.randn(shape)
    results = [[y, *torch.autograd.grad((y * weights).sum(), x)] for y in (normalize(x), got)]
    assert_close(*results, tolerance=1e-6)


def test_gradients_of_a_context_in_every_class_are_added_up_in_fp32():
    vectors = torch.randn(1, 4, 8, requires_grad=True)
    gradient = torch.randn(1, 1000 * 3 + 2 * 1, 8).bfloat16() + 1
    spread(vectors, 1, 1000, copies=2).bfloat16().backward(gradient)
    assert vectors.grad.dtype == torch.float32
    wanted = torch.cat(
        [gradient[:, :2].double().sum(1)[:, None], gradient[:, 2:].double().view(1, 1000, 3, 8).sum(1)], 1
    )
    assert torch.allclose(vectors.grad.double(), wanted, rtol=1e-5)  # bfloat16 sums would stop growing at 256


# --- attention


def test_attention_on_a_gpu_leaves_out_cudnn_and_respects_what_is_switched_off():
    cuda = torch.backends.cuda
    before = cuda.cudnn_sdp_enabled()
    with gpu_operations.attention_kernels(torch.device("cpu")):
        assert cuda.cudnn_sdp_enabled() == before
    with pytest.raises(ZeroDivisionError), gpu_operations.attention_kernels(torch.device("cuda")):
        assert not cuda.cudnn_sdp_enabled()
        raise ZeroDivisionError
    assert cuda.cudnn_sdp_enabled() == before
    others = {name: getattr(cuda, f"{name}_sdp_enabled")() for name in ("flash", "mem_efficient", "math")}
    try:
        for name in others:
            getattr(cuda, f"enable_{name}_sdp")(False)
        with gpu_operations.attention_kernels(torch.device("cuda")):
            assert cuda.cudnn_sdp_enabled() == before  # nothing else would be left
    finally:
        for name, enabled in others.items():
            getattr(cuda, f"enable_{name}_sdp")(enabled)


def test_masks_start_at_multiples_of_16_entries():
    for columns in (16, 17, 31):
        mask = gpu_operations.aligned(torch.zeros(2, 1, 3, columns))
        assert mask.shape[-1] == columns and mask.stride()[-2] % 16 == 0


@pytest.mark.parametrize("on_gpu", [False, True])
def test_weights_that_are_cast_once_compute_what_autocast_computes(clip_file, monkeypatch, on_gpu):
    clip_model, cast = load_clip("any", clip_file), load_clip("any", clip_file)
    convert_weights_(cast, torch.bfloat16, but=("visual.conv1.weight",))
    assert cast.dtype == torch.float32 and cast.text_projection.dtype == torch.bfloat16
    context, image = initial_context(clip_model, 4).requires_grad_(), torch.randn(2, 3, 32, 32)
    if not on_gpu:
        for module in (gpu_operations, model, text):
            monkeypatch.setattr(module, "launches_decide", lambda device: False)

    def compute(clip_model):
        prompts = prompt_layout(clip_model, NAMES, "X X X X", 4)
        with torch.autocast("cpu", torch.bfloat16):
            features = encode_text(clip_model, prompts, context), encode_image(clip_model, image)
        return *with_gradients(features[0].float(), [context]), features[1]

    for wanted, got in zip(compute(clip_model), compute(cast), strict=True):
        assert torch.equal(wanted, got) or (on_gpu and (wanted - got).norm() < 0.02 * wanted.norm())  # other rounding
