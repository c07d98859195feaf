"""Conversion of SLIP checkpoints and open_clip models to openai's CLIP."""

import argparse

import pytest
import torch
from torch import nn

from qprompt.backbones import check_backbone, load_clip
from qprompt.errors import UserError

WIDTH, HEADS, LAYERS, EMBED = 384, 12, 2, 24


class Block(nn.Module):
    """A layer of timm's ViT with its names, written from the formula."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        B, T, _ = x.shape
        query, key, value = self.attn.qkv(self.norm1(x)).view(B, T, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        weight = (query @ key.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5).softmax(-1)
        x = x + self.attn.proj((weight @ value).transpose(1, 2).reshape(B, T, WIDTH))
        return x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(x))))


class TimmViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, WIDTH))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, WIDTH, 8, 8)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, image):
        x = self.patch_embed.proj(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.norm(self.blocks(x))[:, 0]


@pytest.fixture
def slip(clip_weights, tmp_path):
    """(checkpoint as SLIP writes it, its image encoder, its image projection)."""
    torch.manual_seed(0)
    visual, projection = TimmViT(), torch.randn(WIDTH, EMBED) / WIDTH**0.5
    state = {f"visual.{name}": value for name, value in visual.state_dict().items()}
    state |= {name: value for name, value in clip_weights.items() if not name.startswith("visual.")}
    state |= {"image_projection": projection, "text_projection": torch.randn(64, EMBED) / 8}
    state["image_mlp.layer1.weight"] = torch.randn(8, WIDTH)
    state = {f"module.{name}": value for name, value in state.items()}
    path = tmp_path / "slip.pt"
    torch.save({"epoch": 25, "state_dict": state, "args": argparse.Namespace(model="SLIP_VITS16")}, path)
    return path, visual, projection


def test_converted_slip_equals_the_original(slip):
    path, visual, projection = slip
    model = load_clip("ViT-B/16", path)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted, got = visual(image) @ projection, model.encode_image(image)
    assert model.visual.input_resolution == 32 and model.visual.output_dim == EMBED
    assert (wanted - got).abs().max() < 1e-5 * wanted.abs().max()


def test_slip_can_be_prompted(slip, monkeypatch):
    from qprompt.prompted_clip import encode_image

    model = load_clip("ViT-B/16", slip[0])
    image, prompts = torch.randn(2, 3, 32, 32), torch.randn(2, WIDTH)
    with torch.no_grad():
        fast = encode_image(model, image, prompts, [prompts])
        monkeypatch.setenv("QPROMPT_REFERENCE", "1")
        plain = encode_image(model, image, prompts, [prompts])
    assert (fast - plain).abs().max() < 5e-6 * plain.abs().max()


@pytest.fixture
def open_clip(monkeypatch):
    """open_clip with a few small models registered."""
    package = pytest.importorskip("open_clip", reason="open_clip_torch is not installed", exc_type=ImportError)
    from open_clip import factory

    vision = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    configs = {
        "small": {"embed_dim": 32, "vision_cfg": vision | {"head_width": 32}, "text_cfg": text},
        "small-quickgelu": {"embed_dim": 32, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text},
        "small-siglip": {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text | {"no_causal_mask": True}},
        "small-scaled": {"embed_dim": 32, "vision_cfg": vision | {"ls_init_value": 0.5}, "text_cfg": text},
    }
    for name, config in configs.items():
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, config)
    return package


def saved(open_clip, name, tmp_path):
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    return model.eval(), tmp_path / "w.pt"


@pytest.mark.parametrize("name", ["small", "small-quickgelu"])
def test_converted_open_clip_equals_the_original(open_clip, tmp_path, name):
    original, path = saved(open_clip, name, tmp_path)
    for converted in (load_clip(f"open_clip:{name}", path), load_clip(f"open_clip:{name}/{path}")):
        image = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(original.encode_image(image), converted.encode_image(image), atol=1e-4)


@pytest.mark.parametrize("name", ["small-siglip", "small-scaled"])
def test_open_clip_models_of_other_kinds_are_refused(open_clip, tmp_path, name):
    _, path = saved(open_clip, name, tmp_path)
    with pytest.raises(UserError, match="can't be prompted|don't make a CLIP model"):
        load_clip(f"open_clip:{name}", path)


def test_open_clip_errors(open_clip):
    with pytest.raises(UserError, match="no model 'ViT-B-33'. Did you mean 'ViT-B-32'"):
        check_backbone("open_clip:ViT-B-33/x")
    with pytest.raises(UserError, match="has no weights"):
        load_clip("open_clip:small")
    with pytest.raises(UserError, match="can't be loaded"):
        load_clip("open_clip:small/nowhere.pt")
