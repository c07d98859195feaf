"""Packing CoOp's and MaPLe's checkpoints, and back."""

import pytest
import torch
from quantized import weights
from torch import nn

from qprompt.errors import UserError
from qprompt.prompt_files.inspection import inspect
from qprompt.prompt_files.packing import load, pack, unpack
from qprompt.prompt_files.upstream import find_prompts
from qprompt.quantization.api import quantize_
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.state_dict_hooks import add_plain_state_dict_hooks_

COOP = {"ctx": weights(4, 64), "token_prefix": weights(5, 1, 64), "token_suffix": weights(5, 72, 64)}
MAPLE = {
    "prompt_learner.ctx": weights(2, 64),
    "prompt_learner.token_prefix": weights(5, 1, 64),
    "prompt_learner.proj.weight": weights(96, 64),
    "prompt_learner.proj.bias": weights(96),
    "prompt_learner.compound_prompts_text.0": weights(2, 64, seed=1),
    "prompt_learner.compound_prompts_text.1": weights(2, 64, seed=2),
    "prompt_learner.compound_prompt_projections.0.weight": weights(96, 64, seed=3),
    "prompt_learner.compound_prompt_projections.0.bias": weights(96, seed=4),
    "prompt_learner.compound_prompt_projections.1.weight": weights(96, 64, seed=5),
    "prompt_learner.compound_prompt_projections.1.bias": weights(96, seed=6),
    "image_encoder.conv1.weight": weights(96, 3, 8, 8),
    "text_encoder.ln_final.weight": weights(64),
    "logit_scale": torch.tensor(4.6),
}
MAPLE_LEARNED = {key for key in MAPLE if key.startswith("prompt_learner.") and "token_" not in key}


def test_coop(tmp_path):
    pack(COOP, tmp_path / "p")
    assert set(load(tmp_path / "p")) == {"ctx"}
    assert inspect(tmp_path / "p")["method"] == "QCoOp"
    assert inspect(tmp_path / "p")["tensors"][0]["bits"] == 1
    state = unpack(tmp_path / "p", "coop")
    assert list(state) == ["ctx"] and state["ctx"].shape == (4, 64)
    assert len(state["ctx"].unique()) == 2


def test_kgcoop_is_packed_without_the_layer_that_it_never_trains(tmp_path):
    pack({**COOP, "meta_net.linear1.weight": weights(64, 64), "meta_net.linear1.bias": weights(64)}, tmp_path / "p")
    assert set(load(tmp_path / "p")) == {"ctx"}


def test_maple(tmp_path):
    pack(MAPLE, tmp_path / "p", backbone="ViT-B/16")
    about = inspect(tmp_path / "p")
    assert (about["method"], about["backbone"]) == ("QMaPLe", "ViT-B/16")
    assert about["half_bytes"] == 2 * 3 * 96
    assert about["payload_bytes"] == (3 * 2 * 64 + 3 * 96 * 64) // 2 + 6 * 2 * 16
    state = unpack(tmp_path / "p", "maple")
    assert set(state) == MAPLE_LEARNED
    assert torch.equal(state["prompt_learner.proj.bias"], MAPLE["prompt_learner.proj.bias"].half().float())
    error = state["prompt_learner.proj.weight"] - MAPLE["prompt_learner.proj.weight"]
    assert 0 < error.square().mean() < 0.02 * MAPLE["prompt_learner.proj.weight"].var()


def test_bits_and_method_can_be_chosen(tmp_path):
    pack(COOP, tmp_path / "p", QuantConfig(bits=4, method="uniform"))
    assert inspect(tmp_path / "p")["tensors"][0]["bits"] == 4


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("prefix", ["", "prompt_learner."])
def test_a_quantized_checkpoint_keeps_its_levels(tmp_path, both, prefix):
    learner = nn.Module()
    learner.ctx = nn.Parameter(COOP["ctx"].clone())
    quantize_(learner, names="ctx", bits=2, policy="once")
    with torch.no_grad():
        learner.parametrizations.ctx.original.pow_(3)  # far from what the levels were fitted to
    if both:
        add_plain_state_dict_hooks_(learner)
    state = {prefix + key: value for key, value in learner.state_dict().items()}
    pack(state, tmp_path / "p")
    assert torch.equal(unpack(tmp_path / "p", "coop")["ctx"], learner.ctx)
    pack(state, tmp_path / "again", QuantConfig(bits=1))
    assert len(unpack(tmp_path / "again", "coop")["ctx"].unique()) == 2


def test_upstream_reads_what_is_unpacked(tmp_path):
    """`load_model` of upstream's CoOp ends in load_state_dict(strict=False)."""
    pack(COOP, tmp_path / "p")
    learner = nn.Module()
    learner.ctx = nn.Parameter(torch.zeros(4, 64))
    result = learner.load_state_dict(unpack(tmp_path / "p", "coop"), strict=False)
    assert not result.missing_keys and not result.unexpected_keys
    assert torch.equal(learner.ctx, load(tmp_path / "p")["ctx"])


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="no prompts of CoCoOp, CoOp, IVLP, MaPLe, VPT are.*It has: conv1.weight"):
        pack({"conv1.weight": torch.zeros(3)}, tmp_path / "p")
    with pytest.raises(UserError, match="NaN"):
        pack({"ctx": torch.full((2, 2), torch.nan)}, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    pack(COOP, tmp_path / "p")
    with pytest.raises(UserError, match="Use --as coop"):
        unpack(tmp_path / "p", "maple")
    with pytest.raises(UserError, match="Did you mean 'coop'"):
        unpack(tmp_path / "p", "cop")
    with pytest.raises(UserError, match="cannot be read"):
        find_prompts({"ctx": COOP["ctx"], "parametrizations.ctx.original": COOP["ctx"]})
