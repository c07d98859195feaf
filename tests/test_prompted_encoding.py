"""Prompted encoding: the plain path against the clip model, and the fast path against the plain path."""

import pytest
import torch
from equality import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from measure import LiveTensors, saved_for_backward
from torch import nn

from qprompt.backbones import convert_weights_, load_clip
from qprompt.backbones.load import build_clip
from qprompt.prompted_clip import (
    PromptLayout,
    attention_blocks,
    encode_image,
    encode_text,
    initial_context,
    prompt_layout,
    tokenize,
)
from qprompt.prompted_clip.memory import bound_text_memory_, training_memory
from qprompt.prompted_clip.text import encode_text_fast, encode_text_plain

NAMES = ["cat", "big_dog", "a very small red house on a hill", "tree", "traffic light"]


@pytest.fixture
def reference(monkeypatch):
    """Return a function that computes on the plain path and on the fast path."""

    def both(compute):
        monkeypatch.setenv("QPROMPT_REFERENCE", "1")
        plain = compute()
        monkeypatch.setenv("QPROMPT_REFERENCE", "0")
        return plain, compute()

    return both


def with_gradients(features, inputs):
    weights = torch.linspace(-1, 1, features.shape[-1])
    return [features, *torch.autograd.grad((features * weights).sum(), inputs)]


def fixed(clip_model, prompts):
    tokens = tokenize(clip_model, prompts)
    return PromptLayout(clip_model, tokens, torch.full_like(tokens, -1)), tokens


# --- without prompts: the clip model's own features


def test_plain_text_is_bit_equal_to_encode_text(clip_model, monkeypatch):
    monkeypatch.setenv("QPROMPT_REFERENCE", "1")
    layout, tokens = fixed(clip_model, ["a photo of a cat.", "x", "two big dogs in a house, very large."])
    with torch.no_grad():
        assert torch.equal(encode_text(clip_model, layout, None), clip_model.encode_text(tokens))


def test_plain_image_is_bit_equal_to_encode_image(clip_model, monkeypatch):
    monkeypatch.setenv("QPROMPT_REFERENCE", "1")
    image = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(encode_image(clip_model, image), clip_model.encode_image(image))


def test_fast_path_equals_the_model_to_rounding(clip_model):
    layout, tokens = fixed(clip_model, ["a photo of a cat.", "x", "two big dogs in a house, very large."])
    image = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert_close([clip_model.encode_text(tokens)], [encode_text(clip_model, layout, None)])
        assert_close([clip_model.encode_image(image)], [encode_image(clip_model, image)])


# --- with prompts: fast against plain, features and every gradient


def text_with_gradients(clip_model, prompts, n_context, kind):
    """Return a function that computes the features of `NAMES` and the gradients of a context and of two deep ones."""
    context = initial_context(clip_model, n_context, "", len(NAMES) if kind == "class_specific" else 0)
    if kind == "instance":
        context = (context + torch.randn(3, 1, context.shape[-1]))[:, None]
    context.requires_grad_()
    deep = [torch.randn(n_context, context.shape[-1], requires_grad=True) for _ in range(2)]
    return lambda: with_gradients(encode_text(clip_model, prompts, context, deep), [context, *deep])


@pytest.mark.parametrize("block_rows", [8, 128])  # several blocks, one block
@pytest.mark.parametrize("kind", ["generic", "class_specific", "instance"])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("n_context, words", [(4, "a photo of a"), (3, "X X X")])
def test_fast_text(clip_model, reference, monkeypatch, n_context, words, position, kind, block_rows):
    monkeypatch.setattr(attention_blocks, "BLOCK_ROWS", block_rows)
    monkeypatch.setattr(attention_blocks, "SINGLE_BLOCK_ROWS", block_rows)
    prompts = prompt_layout(clip_model, NAMES, words, n_context, position, kind == "class_specific")
    assert_close(*reference(text_with_gradients(clip_model, prompts, n_context, kind)))


@pytest.mark.parametrize("kind", ["generic", "class_specific", "instance"])
@pytest.mark.parametrize("allowed", [0.0, 0.5])
def test_text_within_a_memory_bound(clip_model, reference, monkeypatch, kind, allowed):
    monkeypatch.setattr("qprompt.prompted_clip.memory.BLOCK_ROWS", 1)
    names, groups = [f"{'big ' * (i % 3)}dog {i}" for i in range(20)], 3 if kind == "instance" else 1
    prompts = prompt_layout(clip_model, names, "a photo of a", 4, "end", kind == "class_specific")
    context = initial_context(clip_model, 4, "a photo of a", 20 if kind == "class_specific" else 0)
    if kind == "instance":
        context = (context + torch.randn(3, 1, context.shape[-1]))[:, None]
    context.requires_grad_()
    deep = [torch.randn(4, context.shape[-1], requires_grad=True) for _ in range(2)]

    def compute():
        return with_gradients(encode_text(clip_model, prompts, context, deep), [context, *deep])

    plain, whole = reference(compute)
    saved = training_memory(clip_model, prompts, 1, 0, groups).text
    bound_text_memory_(prompts, clip_model, int(allowed * saved), groups)
    assert len(prompts.parts) == 20 or allowed
    assert 0 < prompts.recomputed < len(prompts.parts) or not allowed
    bounded = compute()
    assert_close(plain, bounded)
    assert_close(whole, bounded)
    with torch.no_grad():
        assert torch.equal(encode_text(clip_model, prompts, context, deep), bounded[0])

    found = saved_for_backward(lambda: encode_text(clip_model, prompts, context, deep), clip_model.parameters())
    assert found < 1.15 * allowed * saved + 1e5 * groups
    bound_text_memory_(prompts, clip_model, 10**12)
    assert not prompts.parts and not prompts.recomputed


@pytest.mark.parametrize("images, n_image, names", [(4, 2, 10), (8, 4, 60)])
def test_memory_estimate(clip_model, images, n_image, names):
    prompts = prompt_layout(clip_model, [f"dog {i}" for i in range(names)], "a photo of a", 4)
    context = initial_context(clip_model, 4).requires_grad_()
    vectors = torch.randn(n_image, 128, requires_grad=True)
    estimate = training_memory(clip_model, prompts, images, n_image)
    frozen = list(clip_model.parameters())
    text = saved_for_backward(lambda: encode_text(clip_model, prompts, context), frozen)
    image = saved_for_backward(lambda: encode_image(clip_model, torch.randn(images, 3, 32, 32), vectors), frozen)
    assert estimate.text == pytest.approx(text, rel=0.3)  # of 3 layers, the last one saves less
    assert estimate.image == pytest.approx(image, rel=0.3)
    live = LiveTensors(frozen)
    with live:
        features = encode_image(clip_model, torch.randn(images, 3, 32, 32), vectors)
        (features.sum() + encode_text(clip_model, prompts, context).sum()).backward()
    assert estimate.peak == pytest.approx(live.peak, rel=0.2)
    assert "peak about" in str(estimate)


@pytest.mark.parametrize("rows", [1, 34, 2048])  # one image per pass, two, all
@pytest.mark.parametrize("n_prompts, depth", [(2, 4), (1, 2), (3, 1)])
def test_fast_image(clip_model, reference, monkeypatch, n_prompts, depth, rows):
    monkeypatch.setattr("qprompt.prompted_clip.image.ROWS", rows)
    image = torch.randn(3, 3, 32, 32)
    prompts = [torch.randn(n_prompts, 128, requires_grad=True) for _ in range(depth)]

    def compute():
        return with_gradients(encode_image(clip_model, image, prompts[0], prompts[1:]), prompts)

    assert_close(*reference(compute))


def test_adapters_and_hooks_in_the_model_take_effect(clip_file):
    clip_model = load_clip("any", clip_file)
    image, plain = torch.randn(2, 3, 32, 32), clip_model.visual.transformer.resblocks
    layer, linear = plain[0].mlp, plain[0].mlp.c_fc

    class Adapter(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = linear.weight, linear.bias

        def forward(self, x):
            return linear(x) + x.mean(-1, keepdim=True)

    layer.c_fc = Adapter()
    seen = []
    plain[1].attn.out_proj.register_forward_hook(lambda *_: seen.append("out_proj"))
    plain[1].mlp.gelu.register_forward_hook(lambda *_: seen.append("gelu"))
    with torch.no_grad():
        got = encode_image(clip_model, image)
        assert seen == ["out_proj", "gelu"]
        assert_close([clip_model.encode_image(image)], [got])


def test_no_shared_rows(clip_model, reference):
    tokens = tokenize(clip_model, ["a photo of a cat.", "x", "two big dogs"] * 20)
    layout = PromptLayout(clip_model, tokens, torch.full_like(tokens, -1), n_shared=0)
    assert layout.mask.dim() == 4 and layout.n_shared == 0
    deep = [torch.randn(1, 64)]
    assert_close(*reference(lambda: [encode_text(clip_model, layout, None, deep)]))


@settings(max_examples=15, deadline=None)
@given(
    names=st.lists(st.text("abcdefgh _", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=7),
    n_context=st.integers(1, 6),
    position=st.sampled_from(["end", "middle", "front"]),
)
def test_any_class_names(clip_model, names, n_context, position):
    prompts = prompt_layout(clip_model, names, " ".join(["X"] * n_context), n_context, position)
    context = torch.randn(n_context, 64)
    with torch.no_grad():
        assert_close(
            [encode_text_plain(clip_model, prompts, context)], [encode_text_fast(clip_model, prompts, context)]
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_fp32(clip_file, clip_model, reference, dtype):
    half = load_clip("any", clip_file)
    convert_weights_(half, dtype)
    assert half.dtype == dtype and half.ln_final.weight.dtype == torch.float32
    context = initial_context(clip_model, 4, "a photo of a")
    wanted = encode_text(clip_model, prompt_layout(clip_model, NAMES, "a photo of a", 4), context)
    prompts = prompt_layout(half, NAMES, "a photo of a", 4)
    for got in reference(lambda: encode_text(half, prompts, context)):
        assert got.dtype == dtype
        assert torch.cosine_similarity(got.float(), wanted).min() > 0.99


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.06), (torch.float16, 0.01)])
@pytest.mark.parametrize("branch", ["text", "image"])
def test_half_precision_fast_path_against_plain_path(clip_file, reference, dtype, tolerance, branch):
    half = load_clip("any", clip_file)
    convert_weights_(half, dtype)
    prompts = prompt_layout(half, NAMES, "a photo of a", 4)
    width = 64 if branch == "text" else 128
    vectors = [(0.1 * torch.randn(4, width)).requires_grad_() for _ in range(2)]
    image = torch.randn(2, 3, 32, 32)

    def compute():
        encode = (encode_text, half, prompts) if branch == "text" else (encode_image, half, image)
        features = encode[0](*encode[1:], vectors[0], vectors[1:])
        assert features.dtype == dtype
        return with_gradients(features.float(), vectors)

    assert_close(*reference(compute), tolerance)


@pytest.mark.parametrize("branch", ["text", "image"])
def test_autocast_fast_path_against_plain_path(clip_model, reference, branch):
    """fp32 weights under autocast to bfloat16, which CPUs support."""
    prompts = prompt_layout(clip_model, NAMES, "a photo of a", 4)
    vectors = [(0.1 * torch.randn(4, 64 if branch == "text" else 128)).requires_grad_() for _ in range(2)]
    image = torch.randn(2, 3, 32, 32)

    def compute():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            encode = (encode_text, clip_model, prompts) if branch == "text" else (encode_image, clip_model, image)
            features = encode[0](*encode[1:], vectors[0], vectors[1:])
        return with_gradients(features.float(), vectors)

    assert_close(*reference(compute), 0.06)


def test_exact_gelu(clip_weights, reference):
    model = build_clip(clip_weights, "test")
    for resblock in model.transformer.resblocks:
        resblock.mlp.gelu = nn.GELU()
    layout, tokens = fixed(model, NAMES)
    with torch.no_grad():
        assert_close([model.encode_text(tokens)], [encode_text(model, layout, None)])
