"""``--fast`` in a CoOp-like trainer: used where results stay the same, undone where they would change."""

import copy

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


class Trainer:
    """What `speed_up` needs of a Dassl trainer."""

    def __init__(self, model, width):
        self.model, self._models, self._optims, self._scheds = model, {"prompt": model}, {}, {}
        self.test_loader = [{"img": torch.randn(3, width, generator=_generator())}]

    def parse_batch_test(self, batch):
        return batch["img"], None

    def set_model_mode(self, mode):
        self.model.train(mode == "train")

    def model_inference(self, image):
        return self.model(image)


@pytest.fixture
def make(clip_model):
    def trainer(encoder, model=Prompted):
        return Trainer(model(copy.deepcopy(clip_model), encoder), clip_model.text_projection.shape[1])

    return trainer


class Tuples(Prompted):
    def forward(self, features):
        return super().forward(features), {"words": "cat"}, [features]


class Caching(Prompted):
    """Keeps the text features of its first inference, as MMRL does."""

    features = None

    def forward(self, features):
        if self.training:
            return super().forward(features)
        if self.features is None:
            prompts = torch.cat([self.embedded[:, :1], self.ctx.expand(2, 1, -1), self.embedded[:, 2:]], 1)
            self.features = self.text_encoder(prompts, self.tokenized_prompts, self.deeper)
        return features @ self.features.t()


def test_models_that_return_tuples_are_made_faster(make):
    trainer, original = make(TextEncoder, Tuples), make(TextEncoder, Tuples)
    assert "text is encoded up to token 6 of 77" in fast.speed_up(trainer)
    image = trainer.test_loader[0]["img"]
    torch.testing.assert_close(trainer.model(image)[0], original.model(image)[0])


def test_probing_has_no_side_effects(make):
    trainer = make(TextEncoder, Caching)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert "text is encoded" in fast.speed_up(trainer)
    assert trainer.model.features is None
    assert trainer.model.text_encoder.calls == 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert all(p.grad is None for p in trainer.model.parameters())


def test_tolerance_is_in_units_of_the_noise_of_the_run(make):
    said = fast.speed_up(make(TextEncoder))
    assert "times the noise of the run" in said

    class Slightly(TextEncoder):
        """Differs by a part in ten thousand, which --fast once let pass."""

        def forward(self, prompts, tokenized_prompts, deeper=()):
            return super().forward(prompts, tokenized_prompts, deeper) * (1 + 1e-6 * prompts.shape[1])

    assert "more than 8 times the noise of the run" in fast.speed_up(make(Slightly))


@pytest.mark.parametrize("exact", [True, False])
def test_half_precision_allows_one_rounding(make, exact):
    class Rounded(TextEncoder):
        """Computes in float32; with `exact` it rounds once, otherwise it depends a little on the length."""

        def forward(self, prompts, tokenized_prompts, deeper=()):
            features = super().forward(prompts, tokenized_prompts, deeper)
            return (features * (1 if exact else 1 + 1e-4 * prompts.shape[1])).half()

    class Half(Prompted):
        def forward(self, features):
            return super().forward(features.half())

    said = fast.speed_up(make(Rounded, Half))
    assert said.endswith("the model runs unchanged") is not exact
    assert exact or "more than one rounding in half precision" in said


def test_faster_model_can_be_saved(make, tmp_path):
    trainer = make(TextEncoder)
    fast.speed_up(trainer)
    torch.save(trainer.model, tmp_path / "model.pt")
    model, image = torch.load(tmp_path / "model.pt", weights_only=False), trainer.test_loader[0]["img"]
    assert torch.equal(model(image), trainer.model(image))


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
    [(ReadsLastPosition, "of one batch differ by"), (FullLength, "RuntimeError: "), (None, "like CoOp's")],
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
