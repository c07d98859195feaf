"""``--fast`` in a CoOp-like trainer: used where results stay the same, undone where they would change."""

import copy
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qprompt.backbones import import_clip
from qprompt.dropin import fast_text as fast
from qprompt.prompted_clip import onednn_linear


class TextEncoder(nn.Module):
    """Encodes prompt embeddings with the text branch of a CLIP, as CoOp's text encoder does."""

    def __init__(self, clip_model):
        super().__init__()
        self.transformer = clip_model.transformer
        self.positional_embedding = clip_model.positional_embedding
        self.ln_final = clip_model.ln_final
        self.text_projection = clip_model.text_projection
        self.calls = 0

    def forward(self, prompts, tokenized_prompts, deeper=()):
        self.calls += 1
        x = self.transformer((prompts + self.positional_embedding).transpose(0, 1)).transpose(0, 1)
        eot = torch.arange(len(x)), tokenized_prompts.argmax(-1)
        return self.ln_final(x)[eot] @ self.text_projection + sum(d.sum() for d in deeper)


class ReadsLastPosition(TextEncoder):
    """Adds the last position, so encoding less changes its features."""

    def forward(self, prompts, tokenized_prompts, deeper=()):
        return super().forward(prompts, tokenized_prompts, deeper) + prompts[:, -1, :1]


class FullLength(TextEncoder):
    """Fails with fewer than 77 positions."""

    def forward(self, prompts, tokenized_prompts, deeper=()):
        return super().forward(prompts.reshape(len(prompts), 77, -1), tokenized_prompts, deeper)


class Prompted(nn.Module):
    def __init__(self, clip_model, encoder):
        super().__init__()
        self.tokenized_prompts = import_clip().tokenize(["a cat", "a big red dog"])
        self.register_buffer("embedded", clip_model.token_embedding(self.tokenized_prompts).detach())
        self.ctx = nn.Parameter(torch.randn(1, clip_model.ln_final.weight.shape[0], generator=_generator()))
        self.deeper = nn.ParameterList([nn.Parameter(torch.zeros(2))])
        self.text_encoder = encoder(clip_model).requires_grad_(False)

    def forward(self, features):
        prompts = torch.cat([self.embedded[:, :1], self.ctx.expand(2, 1, -1), self.embedded[:, 2:]], 1)
        return features @ self.text_encoder(prompts, self.tokenized_prompts, self.deeper).t()


def _generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _restore_linear(monkeypatch):
    monkeypatch.setattr(F, "linear", F.linear)


@pytest.fixture
def make(clip_model):
    def trainer(encoder):
        model = Prompted(copy.deepcopy(clip_model), encoder)
        width = clip_model.text_projection.shape[1]
        return types.SimpleNamespace(
            model=model,
            _models={"prompt": model},
            device="cpu",
            test_loader=[{"img": torch.randn(3, width, generator=_generator())}],
            set_model_mode=lambda mode: model.train(mode == "train"),
            model_inference=lambda image: model(image),
        )

    return trainer


def test_causal_encoder_is_shortened_and_its_features_are_cached(make):
    trainer, original = make(TextEncoder), make(TextEncoder)
    trainer.model.train()
    state, keys = torch.random.get_rng_state(), list(trainer.model.state_dict())
    assert fast.speed_up(trainer).startswith("--fast: text is encoded up to token 6 of 77")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert trainer.model.training
    assert list(trainer.model.state_dict()) == keys
    assert trainer.model.state_dict()["text_encoder.positional_embedding"].shape[0] == 77

    image = trainer.test_loader[0]["img"]
    torch.testing.assert_close(trainer.model(image), original.model(image))
    encoder = trainer.model.text_encoder
    with torch.no_grad():
        calls = encoder.calls
        first, second = trainer.model(image), trainer.model(image)
        assert encoder.calls == calls + 1
        assert torch.equal(first, second)
        # A change of anything that the features depend on invalidates the cache.
        for changed in (trainer.model.ctx, trainer.model.deeper[0], encoder.ln_final.bias):
            changed.add_(0.5)
            now = trainer.model(image)
            assert not torch.equal(now, first)
            first = now
    assert encoder.calls == calls + 4


def test_copy_of_the_model_uses_its_own_encoder(make):
    trainer = make(TextEncoder)
    fast.speed_up(trainer)
    copied, image = copy.deepcopy(trainer.model), trainer.test_loader[0]["img"]
    with torch.no_grad():
        before = trainer.model(image)
        copied.text_encoder.ln_final.weight.mul_(2)
        assert not torch.equal(copied(image), before)
        assert torch.equal(trainer.model(image), before)


@pytest.mark.parametrize(
    ("encoder", "said"),
    [(ReadsLastPosition, "gradients differ by"), (FullLength, "RuntimeError: "), (None, "like CoOp's")],
)
def test_model_runs_unchanged_where_results_would_change(make, encoder, said):
    trainer, original = make(encoder or TextEncoder), make(encoder or TextEncoder)
    if encoder is None:
        trainer.model.tokenized_prompts = trainer.model.tokenized_prompts.tolist()
        original.model.tokenized_prompts = trainer.model.tokenized_prompts
    message = fast.speed_up(trainer)
    assert said in message
    assert message.endswith("the model runs unchanged")
    assert type(trainer.model.text_encoder) is type(original.model.text_encoder)
    if encoder is not None:
        image = trainer.test_loader[0]["img"]
        assert torch.equal(trainer.model(image), original.model(image))


def test_encoder_that_is_not_causal_is_not_changed(make):
    trainer = make(TextEncoder)
    for block in trainer.model.text_encoder.transformer.resblocks:
        block.attn_mask = torch.zeros(77, 77)
    assert "like CoOp's" in fast.speed_up(trainer)


def test_layers_of_torch_use_onednn(make, onednn):
    trainer, original = make(TextEncoder), make(TextEncoder)
    image = trainer.test_loader[0]["img"]
    wanted = original.model(image)
    assert not onednn
    assert "products with frozen weights use oneDNN" in fast.speed_up(trainer)
    onednn.clear()
    torch.testing.assert_close(trainer.model(image), wanted)
    assert len(onednn) == 3 * 4  # attention and MLP of each of 3 layers
    layer = nn.Linear(4, 3)
    layer(torch.ones(4)).sum().backward()
    assert layer.weight.grad is not None and len(onednn) == 3 * 4


@pytest.mark.parametrize("encoder", [ReadsLastPosition, FullLength])
def test_products_are_restored_where_results_would_change(make, onednn, encoder):
    before = F.linear
    assert fast.speed_up(make(encoder)).endswith("the model runs unchanged")
    assert F.linear is before


@pytest.mark.parametrize("version, faster", [("1.13.1+cu117", True), ("2.4.0", False)])
def test_products_are_not_replaced_where_nothing_is_gained(make, onednn, monkeypatch, version, faster):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(onednn_linear, "onednn_is_faster", lambda: faster)
    before = F.linear
    assert "oneDNN" not in fast.speed_up(make(TextEncoder))
    assert F.linear is before
