"""CoOp, MaPLe, CoCoOp, IVLP and VPT equal upstream's trainers: logits, loss, gradients, and 20 steps.

tests/golden/ contains what upstream computed. With a checkout (its path in QPROMPT_COOP or QPROMPT_MAPLE), upstream
computes it again, and checkpoints are exchanged in both directions.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from equality import CASES, FP16_CASES, assert_equal, figures, start_from
from safetensors.torch import load_file
from toy import toy_trainer

import trainers.cocoop
import trainers.coop
import trainers.ivlp
import trainers.maple
import trainers.vpt  # noqa: F401

HERE = Path(__file__).parent
SAME_START = ("CoOp", "MaPLe", "CoCoOp")  # with the same seed, initial prompts equal upstream's


def golden_runs():
    """Yield each case with each path; the plain path with many classes is left to -m slow.

    It has no blocks, and computes as with the few classes of the same case without "_many".
    """
    for case in CASES:
        for path in ("fast", "onednn", "plain"):
            slow = case.endswith("_many") and path == "plain"
            yield pytest.param(case, path, marks=[pytest.mark.slow] * slow, id=f"{case}-{path}")


@pytest.mark.parametrize(("case", "path"), list(golden_runs()))
def test_golden(case, path, clip_file, tmp_path, monkeypatch, request):
    monkeypatch.setenv("QPROMPT_REFERENCE", str(int(path == "plain")))
    multiplied = request.getfixturevalue("onednn") if path == "onednn" else ()
    theirs = load_file(HERE / "golden" / f"{case}.safetensors")
    _, trainer, options = CASES[case]
    ours = toy_trainer(tmp_path, clip_file, trainer, *options)
    start_from(ours, theirs)
    assert_equal(figures(ours), theirs, tolerance=2e-4)
    if case.endswith("_many"):
        assert len(ours.model.layout.mask) > 2  # blocks of the packed attention
    assert bool(multiplied) == (path == "onednn")


def run_upstream(case, *arguments):
    variable = (CASES | FP16_CASES)[case][0]
    checkout = os.environ.get(variable)
    if not checkout:
        pytest.skip(f"{variable} is not set to a checkout")
    command = [sys.executable, "-W", "ignore", HERE / "equality.py", checkout, case, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return load_file(arguments[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_checkout(case, clip_file, tmp_path):
    theirs = run_upstream(case, tmp_path / "figures.safetensors", tmp_path / "upstream")
    _, trainer, options = CASES[case]
    ours = toy_trainer(tmp_path, clip_file, trainer, *options)
    start = {f"start.{name}": p for name, p in learned_parameters(ours).items()}
    if trainer in SAME_START:
        assert all(torch.equal(value, theirs[name]) for name, value in start.items())
    start_from(ours, theirs)
    found = figures(ours)
    assert_equal(found, theirs, tolerance=1e-4)

    # load upstream's checkpoint
    ours.load_model(str(tmp_path / "upstream"), epoch=1)
    end = {f"end.{name}": p.detach() for name, p in learned_parameters(ours).items()}
    assert all(torch.equal(value, theirs[name]) for name, value in end.items())

    # upstream loads our checkpoint
    ours.save_model(0, str(tmp_path / "ours"))
    continued = run_upstream(case, tmp_path / "continued.safetensors", tmp_path / "ours")
    assert all(torch.equal(value, continued[name.replace("end.", "start.")]) for name, value in end.items())


def learned_parameters(trainer):
    (module,) = trainer._models.values()
    return dict(module.named_parameters())
