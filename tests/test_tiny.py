"""The embedded CLIP: complete, small, and able to classify objects of the drawn world."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qprompt.backbones import import_clip, load_clip, tiny
from qprompt.backbones.tiny import tiny_state_dict
from qprompt.errors import UserError
from qprompt.world import NOUNS, RESOLUTION, SeededRandom, phrases, random_scene, render

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model():
    return load_clip("tiny")


def test_asset_is_small():
    file = resources.files("qprompt") / "assets" / tiny.ASSET
    assert len(file.read_bytes()) <= 8e6


def test_sizes_are_read_from_the_weights(model):
    assert model.visual.input_resolution == RESOLUTION
    assert model.token_embedding.weight.shape[0] == len(import_clip().clip._tokenizer.encoder)
    assert model.context_length == 77  # like OpenAI's, so that code for these models runs


def test_state_dict_is_constant_and_finite():
    first, second = tiny_state_dict(), tiny_state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert all(torch.isfinite(v).all() for v in first.values())
    first["logit_scale"] += 1  # changes by a caller affect only its copy
    assert torch.equal(tiny_state_dict()["logit_scale"], second["logit_scale"])


def test_unknown_words_have_embeddings_of_the_usual_size(model):
    clip = import_clip()
    known = clip.tokenize(phrases()).unique()
    table = model.token_embedding.weight
    unknown = torch.ones(len(table), dtype=torch.bool)
    unknown[known] = False
    assert table[unknown].std().item() == pytest.approx(table[known].std().item(), rel=0.02)
    assert len(table[unknown][:2000].unique(dim=0)) == 2000


def test_damaged_asset_is_refused(monkeypatch):
    tiny._asset.cache_clear()
    monkeypatch.setattr(tiny, "SHA256", "0" * 64)
    with pytest.raises(UserError, match="is damaged"):
        tiny_state_dict()
    monkeypatch.setattr(tiny, "ASSET", "nothing.safetensors")
    with pytest.raises(UserError, match="is missing"):
        tiny_state_dict()
    tiny._asset.cache_clear()


def test_zero_shot_is_far_above_chance(model):
    clip = import_clip()
    with torch.no_grad():
        classes = model.encode_text(clip.tokenize([f"a photo of a {noun.names[0]}." for noun in NOUNS]))
        scenes = [random_scene(SeededRandom("test", i), variety=0) for i in range(200)]
        pixels = torch.from_numpy(np.stack([render(s) for s in scenes])).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
        std = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
        images = model.encode_image((pixels - mean) / std)
        guesses = (images @ torch.nn.functional.normalize(classes, dim=-1).t()).argmax(-1)
    accuracy = (guesses == torch.tensor([s.noun for s in scenes])).float().mean().item()
    assert accuracy > 0.5  # chance is 0.01


@pytest.mark.slow
def test_pretraining_resumes(tmp_path):
    def run(folder, *more):
        command = [sys.executable, ROOT / "scripts/pretrain_tiny_clip.py", "--work-dir", tmp_path / folder, *more]
        settings = ["--steps", "4", "--batch", "8", "--warmup", "1", "--workers", "0", "--device", "cpu"]
        subprocess.run([*command, *settings], check=True)

    run("straight")
    run("stopped", "--stop-after", "2")
    run("stopped")
    first, second = (load_file(tmp_path / f / "tiny_clip.safetensors") for f in ("straight", "stopped"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
