"""Prompted encoding: the plain path against the clip model itself, the fast path against the plain one."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from equality import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qprompt.backbones import convert_weights_, load_clip
from qprompt.backbones.load import build_clip
from qprompt.backbones.random_weights import ClipShape, random_state_dict
from qprompt.errors import UserError
from qprompt.prompted_clip import (
    PromptedCLIP,
    PromptLayout,
    Prompts,
    encode_image,
    encode_text,
    initial_context,
    layout,
    prompt_layout,
    tokenize,
)
from qprompt.prompted_clip.memory import bound_text_memory_, training_memory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from measure import LiveTensors, kept_for_backward  # noqa: E402

NAMES = ["cat", "big_dog", "a very small red house on a hill", "tree", "traffic light"]


@pytest.fixture
def reference(monkeypatch):
    """Call with a function: its result on the plain path and on the fast one."""

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


def test_fast_is_the_model_to_rounding(clip_model):
    layout, tokens = fixed(clip_model, ["a photo of a cat.", "x", "two big dogs in a house, very large."])
    image = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert_close([clip_model.encode_text(tokens)], [encode_text(clip_model, layout, None)])
        assert_close([clip_model.encode_image(image)], [encode_image(clip_model, image)])


# --- with prompts: fast against plain, features and every gradient


@pytest.mark.parametrize("bin_rows", [8, 128])  # several bins, one bin
@pytest.mark.parametrize("kind", ["generic", "class_specific", "instance"])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("n_context, words", [(4, "a photo of a"), (3, "X X X")])
def test_fast_text(clip_model, reference, monkeypatch, n_context, words, position, kind, bin_rows):
    monkeypatch.setattr(layout, "BIN", bin_rows)
    monkeypatch.setattr(layout, "WHOLE", bin_rows)
    prompts = prompt_layout(clip_model, NAMES, words, n_context, position, kind == "class_specific")
    context = initial_context(clip_model, n_context, "", len(NAMES) if kind == "class_specific" else 0)
    if kind == "instance":
        context = (context + torch.randn(3, 1, context.shape[-1]))[:, None]
    context.requires_grad_()
    deep = [torch.randn(n_context, context.shape[-1], requires_grad=True) for _ in range(2)]

    def compute():
        return with_gradients(encode_text(clip_model, prompts, context, deep), [context, *deep])

    assert_close(*reference(compute))


@pytest.mark.parametrize("kind", ["generic", "class_specific", "instance"])
@pytest.mark.parametrize("allowed", [0.0, 0.5])
def test_text_within_a_bound_of_memory(clip_model, reference, monkeypatch, kind, allowed):
    monkeypatch.setattr("qprompt.prompted_clip.memory.BIN", 1)
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
    kept = training_memory(clip_model, prompts, 1, 0, groups).text
    bound_text_memory_(prompts, clip_model, int(allowed * kept), groups)
    assert len(prompts.parts) == 20 or allowed
    assert 0 < prompts.recomputed < len(prompts.parts) or not allowed
    bounded = compute()
    assert_close(plain, bounded)
    assert_close(whole, bounded)
    with torch.no_grad():
        assert torch.equal(encode_text(clip_model, prompts, context, deep), bounded[0])

    found = kept_for_backward(lambda: encode_text(clip_model, prompts, context, deep), clip_model.parameters())
    assert found < 1.15 * allowed * kept + 1e5 * groups
    bound_text_memory_(prompts, clip_model, 10**12)
    assert not prompts.parts and not prompts.recomputed


@pytest.mark.parametrize("images, n_image, names", [(4, 2, 10), (8, 4, 60)])
def test_the_estimate_of_memory(clip_model, images, n_image, names):
    prompts = prompt_layout(clip_model, [f"dog {i}" for i in range(names)], "a photo of a", 4)
    context = initial_context(clip_model, 4).requires_grad_()
    vectors = torch.randn(n_image, 128, requires_grad=True)
    estimate = training_memory(clip_model, prompts, images, n_image)
    frozen = list(clip_model.parameters())
    text = kept_for_backward(lambda: encode_text(clip_model, prompts, context), frozen)
    image = kept_for_backward(lambda: encode_image(clip_model, torch.randn(images, 3, 32, 32), vectors), frozen)
    assert estimate.text == pytest.approx(text, rel=0.3)  # with 3 layers the last, shorter one counts much
    assert estimate.image == pytest.approx(image, rel=0.3)
    live = LiveTensors(frozen)
    with live:
        features = encode_image(clip_model, torch.randn(images, 3, 32, 32), vectors)
        (features.sum() + encode_text(clip_model, prompts, context).sum()).backward()
    assert estimate.peak == pytest.approx(live.peak, rel=0.2)
    assert "peak about" in str(estimate)


@pytest.mark.parametrize("rows", [1, 34, 2048])  # at once: one image, two, all
@pytest.mark.parametrize("n_prompts, depth", [(2, 4), (1, 2), (3, 1)])
def test_fast_image(clip_model, reference, monkeypatch, n_prompts, depth, rows):
    monkeypatch.setattr("qprompt.prompted_clip.image.ROWS", rows)
    image = torch.randn(3, 3, 32, 32)
    prompts = [torch.randn(n_prompts, 128, requires_grad=True) for _ in range(depth)]

    def compute():
        return with_gradients(encode_image(clip_model, image, prompts[0], prompts[1:]), prompts)

    assert_close(*reference(compute))


def test_what_was_put_into_the_model_stays_in_it(clip_file):
    """Somebody's adapter in place of a layer, somebody's hook on one."""
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
        from qprompt.prompted_clip.text import encode_text_fast, encode_text_plain

        assert_close(
            [encode_text_plain(clip_model, prompts, context)], [encode_text_fast(clip_model, prompts, context)]
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(clip_file, clip_model, reference, dtype):
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
def test_half_precision_fast_against_plain(clip_file, reference, dtype, tolerance, branch):
    """Features and gradients as near to the plain path's as rounding in that precision allows."""
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
def test_autocast_fast_against_plain(clip_model, reference, branch):
    """fp32 weights under autocast to bfloat16, which a CPU has too."""
    prompts = prompt_layout(clip_model, NAMES, "a photo of a", 4)
    vectors = [(0.1 * torch.randn(4, 64 if branch == "text" else 128)).requires_grad_() for _ in range(2)]
    image = torch.randn(2, 3, 32, 32)

    def compute():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            encode = (encode_text, clip_model, prompts) if branch == "text" else (encode_image, clip_model, image)
            features = encode[0](*encode[1:], vectors[0], vectors[1:])
        return with_gradients(features.float(), vectors)

    assert_close(*reference(compute), 0.06)


def test_an_exact_gelu_is_respected(clip_weights, reference):
    model = build_clip(clip_weights, "test")
    for block in model.transformer.resblocks:
        block.mlp.gelu = nn.GELU()
    layout, tokens = fixed(model, NAMES)
    with torch.no_grad():
        assert_close([model.encode_text(tokens)], [encode_text(model, layout, None)])


# --- the layout


def test_what_is_shared(clip_model):
    def shared(*arguments):
        return prompt_layout(clip_model, NAMES, *arguments).n_shared

    assert shared("a photo of a", 4) == 5  # SOS and the context
    assert shared("a photo of a", 2) == 5  # MaPLe: "of a" is found to be common
    assert shared("a photo of a", 4, "middle") == 3
    assert shared("a photo of a", 4, "front") == 1
    assert shared("a photo of a", 4, "end", True) == 1  # class-specific: SOS alone
    assert prompt_layout(clip_model, ["dog", "dog"], "a photo of a", 4).n_shared == 7  # never EOT itself


def test_rows_are_what_features_depend_on(clip_model):
    prompts = prompt_layout(clip_model, ["cat", "traffic light"], "a photo of a", 4)
    # SOS + 4, then "cat . EOT" and "traffic light . EOT"
    assert len(prompts.rows) == 5 + 3 + 4
    assert prompts.eot.tolist() == [7, 8] and prompts.eot_rows.tolist() == [7, 11]
    assert not prompts.state_dict()


def test_class_name_positions_follow_coop(clip_model):
    encoder = tokenize(clip_model, ["a b traffic light ."])[0].tolist()
    sos, a, b, traffic, light, stop, eot = encoder[:7]
    orders = {
        "end": [sos, a, b, traffic, light, stop, eot],
        "middle": [sos, a, traffic, light, b, stop, eot],
        "front": [sos, traffic, light, a, b, stop, eot],
    }
    for position, expected in orders.items():
        prompts = prompt_layout(clip_model, ["traffic_light"], "a b", 2, position)
        assert prompts.tokens[0, :7].tolist() == expected
        assert [expected[i] for i in (prompts.slots[0] >= 0).nonzero()[:, 0]] == [a, b]


def test_bad_prompts_name_themselves(clip_model):
    with pytest.raises(UserError, match="more than the 77 tokens"):
        prompt_layout(clip_model, ["word " * 80], "a photo of a", 4)
    with pytest.raises(UserError, match="end, middle, front; got 'back'"):
        prompt_layout(clip_model, NAMES, "a photo of a", 4, "back")
    with pytest.raises(UserError, match="one token each"):
        prompt_layout(clip_model, NAMES, "a photograph of xylophones", 4, "middle")


# --- the model


class Learner(nn.Module):
    def __init__(self, context):
        super().__init__()
        self.ctx = nn.Parameter(context)

    def forward(self):
        return Prompts(text=self.ctx)


@pytest.fixture
def prompted(clip_model):
    learner = Learner(initial_context(clip_model, 4, "a photo of a"))
    return PromptedCLIP(clip_model, prompt_layout(clip_model, NAMES, "a photo of a", 4), learner)


def test_only_what_is_learned_is_in_the_module(prompted):
    assert list(prompted.state_dict()) == ["prompt_learner.ctx"]
    assert [name for name, _ in prompted.named_parameters()] == ["prompt_learner.ctx"]
    assert not prompted.train().clip_model.training


def test_logits_are_clips_own_for_a_hand_written_prompt(prompted, clip_model):
    image = torch.randn(3, 3, 32, 32)
    tokens = tokenize(clip_model, [f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    with torch.no_grad():
        assert_close([clip_model(image, tokens)[0]], [prompted(image)])
        assert torch.equal(prompted(prompted.image_features(image)), prompted(image))
    louder = PromptedCLIP(clip_model, prompted.layout, prompted.prompt_learner, logit_scale=7.0)
    with torch.no_grad():
        assert_close([prompted(image) * 7 / prompted.logit_scale], [louder(image)])


def test_text_features_are_kept_until_a_weight_changes(prompted, monkeypatch):
    calls = []
    encode = prompted.encode_classes
    monkeypatch.setattr(prompted, "encode_classes", lambda prompts: calls.append(1) or encode(prompts))
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        first = prompted(image)
        prompted(image)
        assert len(calls) == 1
        prompted.prompt_learner.ctx.add_(0.5)
        assert not torch.equal(prompted(image), first) and len(calls) == 2
        prompted.load_state_dict(copy.deepcopy(prompted.state_dict()))
        prompted(image)
        assert len(calls) == 3
        prompted.eval()
        prompted(image)
        assert len(calls) == 4
    prompted(image).sum().backward()
    prompted(image).sum().backward()
    assert len(calls) == 6  # nothing is kept while gradients flow


def test_a_resnet_takes_text_prompts_alone():
    shape = ClipShape(32, 64, (1, 1, 1, 1), 16, None, 64, 1, 2)
    model = build_clip(random_state_dict(shape), "test")
    prompted = PromptedCLIP(model, prompt_layout(model, NAMES, "a photo of a", 4), Learner(initial_context(model, 4)))
    image = torch.randn(2, 3, 64, 64)
    loss = prompted(image).sum()
    loss.backward()
    assert prompted.prompt_learner.ctx.grad.abs().max() > 0
    with pytest.raises(UserError, match="need a ViT"):
        encode_image(model, image, torch.zeros(2, 64))
