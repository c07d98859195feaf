"""Stored sizes: those of the paper's table, byte for byte, and the file's own count of them."""

import pytest
import torch
from torch import nn

from qprompt import inspect, load, quantize_, save
from qprompt.prompt_files import accounting


def coop(width=512):
    learner = nn.Module()
    learner.ctx = nn.Parameter(torch.randn(4, width))
    return learner


def maple(width=512, image_width=768, depth=9):
    """The shapes that MaPLe learns on ViT-B/16."""
    learner = nn.Module()
    learner.ctx = nn.Parameter(torch.randn(2, width))
    learner.proj = nn.Linear(width, image_width)
    learner.compound_prompts_text = nn.ParameterList(torch.randn(2, width) for _ in range(depth - 1))
    learner.compound_prompt_projections = nn.ModuleList(nn.Linear(width, image_width) for _ in range(depth - 1))
    return learner


def test_qcoop_takes_260_bytes_and_a_file_below_one_kilobyte(tmp_path):
    learner = coop()
    quantize_(learner, bits=1, names=["ctx"])
    summary = accounting.summary(learner)
    assert (summary["payload_bytes"], summary["fp16_kept_bytes"]) == (260, 0)
    metadata = {"method": "QCoOp", "backbone": "ViT-B/16", "backbone_sha256": "0" * 64, "words": "a photo of a"}
    save(learner, tmp_path / "p.qprompt", **metadata, class_position="end")
    assert (tmp_path / "p.qprompt").stat().st_size <= 1000
    assert torch.equal(load(tmp_path / "p.qprompt")["ctx"], learner.ctx)


def test_qmaple_takes_1774656_bytes_and_its_biases_13824(tmp_path):
    learner = maple()
    quantize_(learner, bits=4, names=["ctx", "compound_prompts_text.*", "proj.weight", "*projections.*.weight"])
    costs = accounting.quantized_costs(learner)
    assert len(costs) == 18
    assert sum(c.fp16_bytes for c in costs) == 7_096_320
    summary = accounting.summary(learner)
    assert (summary["payload_bytes"], summary["fp16_kept_bytes"]) == (1_774_656, 13_824)
    table = accounting.table(learner)
    assert "1,774,656 bytes (1774.66 KB), 4.0 times less" in table
    assert "kept in fp16: 13,824 bytes" in table
    save(learner, tmp_path / "p.qprompt")
    stored = load(tmp_path / "p.qprompt")
    assert torch.equal(stored["proj.weight"], learner.proj.weight)
    assert torch.equal(stored["proj.bias"], learner.proj.bias.half().float())
    assert "1774656" in repr(inspect(tmp_path / "p.qprompt")).replace(",", "").replace("_", "")


def test_step_sizes_that_are_learned_are_in_the_levels():
    learner = coop()
    quantize_(learner, bits=2, method="lsq", names=["ctx"])
    summary = accounting.summary(learner)
    assert (summary["payload_bytes"], summary["fp16_kept_bytes"]) == (512 + 8, 0)


def test_summary_of_a_constant_tensor_is_plain_json(tmp_path):
    import json

    learner = nn.Module()
    learner.ctx = nn.Parameter(torch.full((2, 8), 0.5))
    quantize_(learner, bits=1, names=["ctx"])
    summary = accounting.summary(learner)
    assert summary["snr_db"] is None
    json.dumps(summary, allow_nan=False)


def test_the_pooled_error_counts_tensors_without_one():
    import math

    learner = nn.Module()
    g = torch.Generator().manual_seed(0)
    learner.a = nn.Parameter(torch.randn(4, 64, generator=g))
    learner.b = nn.Parameter(torch.tensor([[-1.0, 1.0] * 32]))  # two values: exact with one bit
    quantize_(learner, bits=1, names=["a", "b"])
    summary = accounting.summary(learner)
    latent = {name: learner.parametrizations[name].original.detach().double() for name in ("a", "b")}
    error = (learner.a.detach() - latent["a"]).square().sum()
    power = sum(weight.square().sum() for weight in latent.values())
    assert summary["mse"] == pytest.approx(error.item() / 320)
    assert summary["snr_db"] == pytest.approx(10 * math.log10(power / error))
