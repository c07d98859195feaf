"""PREC fp16-upstream trains as upstream's code does with PREC fp16: fp16 parameters, features and logits, no scaler.

tests/golden/*_fp16.safetensors contain what upstream computed on a CPU; with its checkout it computes it again.
"""

import json
from pathlib import Path

import pytest
import torch
from equality import FP16_CASES, STEPS, assert_equal, fp16_figures, learned, start_from, with_precision
from safetensors.torch import load_file
from test_upstream_equality import SAME_START, run_upstream
from toy import toy_trainer

import trainers.cocoop
import trainers.coop
import trainers.ivlp
import trainers.maple
import trainers.qcoop
import trainers.qmaple
import trainers.vpt  # noqa: F401
from qprompt.errors import UserError
from qprompt.prompt_files import packing
from qprompt.prompts import methods
from qprompt.training.precision import FP16_UPSTREAM, RoundedAway

GOLDEN = Path(__file__).parent / "golden"
CONTEXT = ("TRAINER.COOP.N_CTX", 4)


def built_like(case, theirs, clip_file, tmp_path):
    """Our trainer, whose parameters have upstream's types, and with the same seed upstream's values."""
    _, trainer, options = FP16_CASES[case]
    ours = toy_trainer(tmp_path, clip_file, trainer, *with_precision(trainer, options, FP16_UPSTREAM))
    for name, parameter in learned(ours).items():
        wanted = theirs[f"start.{name}"]
        assert parameter.dtype == wanted.dtype, name
        assert trainer not in SAME_START or torch.equal(parameter, wanted), name
    return ours


def compare(case, theirs, clip_file, tmp_path):
    ours = built_like(case, theirs, clip_file, tmp_path)
    start_from(ours, theirs)
    found = fp16_figures(ours)
    unchanged, wanted = found.pop("unchanged"), theirs.pop("unchanged")
    assert (unchanged - wanted).abs().max() <= 0.06  # torch 2.4 and 2.14 differ by 0.05
    assert_equal({k: v.float() for k, v in found.items()}, {k: v.float() for k, v in theirs.items()}, tolerance=4e-2)
    first = [name for name in theirs if name.startswith(("grad.", "logits.before"))]
    assert_equal({k: found[k].float() for k in first}, {k: theirs[k].float() for k in first}, tolerance=1.5e-2)


@pytest.mark.parametrize("case", FP16_CASES)
def test_parameters_have_upstreams_types(case, clip_file, tmp_path):
    ours = built_like(case, load_file(GOLDEN / f"{case}.safetensors"), clip_file, tmp_path)
    assert ours.scaler is None
    assert ours.model.feature_dtype == (torch.float32 if case == "vpt_fp16" else torch.float16)


# fp16 is slow on a CPU
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if c == "coop_end_fp16" else pytest.mark.slow) for c in FP16_CASES]
)
def test_golden(case, clip_file, tmp_path):
    compare(case, load_file(GOLDEN / f"{case}.safetensors"), clip_file, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", FP16_CASES)
def test_checkout(case, clip_file, tmp_path):
    compare(case, run_upstream(case, tmp_path / "figures.safetensors"), clip_file, tmp_path)


def test_most_updates_are_rounded_away_during_warm_up():
    theirs = load_file(GOLDEN / "maple_fp16.safetensors")["unchanged"]
    assert theirs[:7].min() > 0.9 and theirs[7:].max() < 0.5 and len(theirs) == STEPS


@pytest.mark.parametrize("name", ["QCoOp", "QMaPLe"])
def test_a_quantized_run_is_stored_as_it_was_trained(name, clip_file, tmp_path):
    node = name[1:].upper()
    options = (f"TRAINER.{node}.PREC", FP16_UPSTREAM, "OPTIM.WARMUP_CONS_LR", 1e-6, "OPTIM.MAX_EPOCH", 2)
    trainer = toy_trainer(
        tmp_path, clip_file, name, *options, *(CONTEXT if name == "QCoOp" else ("TRAINER.MAPLE.PROMPT_DEPTH", 2))
    )
    trainer.train()
    masters = {n: p.dtype for n, p in trainer.model.named_parameters()}
    assert torch.float16 in masters.values()
    stored = packing.load(tmp_path / "output" / trainer.prompt_record["file"])
    for tensor, value in stored.items():
        owner, _, leaf = tensor.rpartition(".")
        assert torch.equal(value.float(), getattr(trainer.model.get_submodule(owner), leaf).float()), tensor
    record = trainer.computed
    assert record["precision"] == FP16_UPSTREAM and 0 < record["unchanged_share"] < 1
    json.dumps(record)


def test_a_run_is_resumed(clip_file, tmp_path):
    options = (*CONTEXT, "TRAINER.COOP.PREC", FP16_UPSTREAM, "TRAIN.CHECKPOINT_FREQ", 1)
    whole = toy_trainer(tmp_path / "whole", clip_file, "CoOp", *options)
    whole.train()
    for epochs in (1, 3):
        part = toy_trainer(tmp_path / "part", clip_file, "CoOp", *options)
        stop = part.after_epoch

        def after_epoch(part=part, stop=stop, epochs=epochs):
            stop()
            if part.epoch + 1 == epochs < 3:
                raise KeyboardInterrupt

        part.after_epoch = after_epoch
        if epochs < 3:
            with pytest.raises(KeyboardInterrupt):
                part.train()
        else:
            part.train()
    ends = [trainer.model.prompt_learner.ctx.detach() for trainer in (whole, part)]
    assert ends[0].dtype == torch.float16 and torch.equal(*ends)


def test_updates_below_the_resolution_of_fp16_are_counted():
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    rounded = RoundedAway([("ctx", parameter), ("other", torch.nn.Parameter(torch.ones(3)))])
    with torch.no_grad():
        parameter.add_(torch.tensor([1e-4, 1e-4, 0.1, 0.1]))
    rounded.observe()
    with torch.no_grad():
        parameter.add_(torch.tensor([0.1, 0.1, 0.1, 1e-4]))
    rounded.observe()
    assert rounded.record() == {"fp16_entries": 4, "unchanged_share": 0.375}
    resumed = RoundedAway([("ctx", parameter)], rounded.state())
    resumed.observe()  # a third step, which changes nothing
    assert resumed.record() == {"fp16_entries": 4, "unchanged_share": round(7 / 12, 4)}


def test_every_method_says_what_upstream_keeps_in_fp16():
    assert {m.name for m in methods() if not m.upstream_fp16} == {"VPT"}
    assert {m.name for m in methods() if m.upstream_fp32_model} == {"VPT"}


def test_an_unknown_precision_names_all(clip_file, tmp_path):
    with pytest.raises(UserError, match="fp16, fp32, amp, bf16, fp16-upstream; got 'fp16-upstrem'.*'fp16-upstream'"):
        toy_trainer(tmp_path, clip_file, "CoOp", "TRAINER.COOP.PREC", "fp16-upstrem")


def test_optimizers_that_divide_by_zero_in_fp16_are_refused(clip_file, tmp_path):
    options = (*CONTEXT, "TRAINER.COOP.PREC", FP16_UPSTREAM)
    with pytest.raises(UserError, match=r"OPTIM.NAME adam .*: type OPTIM.NAME sgd\."):
        toy_trainer(tmp_path, clip_file, "CoOp", *options, "OPTIM.NAME", "adam")
    more = ("TRAINER.VPT.PREC", FP16_UPSTREAM, "OPTIM.NAME", "adam")
    toy_trainer(tmp_path, clip_file, "VPT", *more)  # its parameters are fp32
