"""The layout of prompts, and CLIP's classifier with a prompt learner."""

import copy

import pytest
import torch
from equality import assert_close
from torch import nn

from qprompt.backbones.load import build_clip
from qprompt.backbones.random_weights import ClipShape, random_state_dict
from qprompt.errors import UserError
from qprompt.prompted_clip import PromptedCLIP, Prompts, encode_image, initial_context, prompt_layout, tokenize

NAMES = ["cat", "big_dog", "a very small red house on a hill", "tree", "traffic light"]


# --- the layout


def test_number_of_shared_rows(clip_model):
    def shared(*arguments):
        return prompt_layout(clip_model, NAMES, *arguments).n_shared

    assert shared("a photo of a", 4) == 5  # SOS and the context
    assert shared("a photo of a", 2) == 5  # MaPLe: "of a" is shared too
    assert shared("a photo of a", 4, "middle") == 3
    assert shared("a photo of a", 4, "front") == 1
    assert shared("a photo of a", 4, "end", True) == 1  # class-specific: only SOS
    assert prompt_layout(clip_model, ["dog", "dog"], "a photo of a", 4).n_shared == 7  # never EOT


def test_rows_are_those_that_features_depend_on(clip_model):
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


def test_errors_name_the_prompt(clip_model):
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


def test_module_contains_only_what_is_learned(prompted):
    assert list(prompted.state_dict()) == ["prompt_learner.ctx"]
    assert [name for name, _ in prompted.named_parameters()] == ["prompt_learner.ctx"]
    assert not prompted.train().clip_model.training


def test_logits_of_a_hand_written_prompt_equal_clips(prompted, clip_model):
    image = torch.randn(3, 3, 32, 32)
    tokens = tokenize(clip_model, [f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    with torch.no_grad():
        assert_close([clip_model(image, tokens)[0]], [prompted(image)])
        assert torch.equal(prompted(prompted.image_features(image)), prompted(image))
    louder = PromptedCLIP(clip_model, prompted.layout, prompted.prompt_learner, logit_scale=7.0)
    with torch.no_grad():
        assert_close([prompted(image) * 7 / prompted.logit_scale], [louder(image)])


def test_text_features_are_cached_until_a_weight_changes(prompted, monkeypatch):
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
    assert len(calls) == 6  # no cache with gradients


def test_resnet_accepts_only_text_prompts():
    shape = ClipShape(32, 64, (1, 1, 1, 1), 16, None, 64, 1, 2)
    model = build_clip(random_state_dict(shape), "test")
    prompted = PromptedCLIP(model, prompt_layout(model, NAMES, "a photo of a", 4), Learner(initial_context(model, 4)))
    image = torch.randn(2, 3, 64, 64)
    loss = prompted(image).sum()
    loss.backward()
    assert prompted.prompt_learner.ctx.grad.abs().max() > 0
    with pytest.raises(UserError, match="need a ViT"):
        encode_image(model, image, torch.zeros(2, 64))
