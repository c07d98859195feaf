"""Unmodified upstream checkouts on the bundled engine, compared with real Dassl if it runs.

Needs QPROMPT_COOP, QPROMPT_MAPLE and, for the comparison, QPROMPT_DASSL a torch that real Dassl supports.
"""

import re
import shutil

import pytest
import torch

from tests.test_engine_parity import usable_here
from tests.upstream import (
    WIDE,
    checkout,
    make_caltech_tree,
    run_checkout,
    save_tiny_clip_archive,
    train_args,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]  # half precision on a busy CPU takes minutes

COCOOP = "CoCoOp/vit_b16_c4_ep10_batch1_ctxv1.yaml"
MAPLE = "MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_caltech_tree(tmp_path_factory.mktemp("data"), classes=6)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_tiny_clip_archive(tmp_path_factory.mktemp("clip") / "small.pt")


@pytest.fixture(scope="module")
def real_dassl():
    checkout("coop")
    fault = usable_here(checkout("dassl"))
    if fault:
        pytest.skip(fault)


def prompts(folder, epoch, name="prompt_learner"):
    content = torch.load(folder / name / f"model.pth.tar-{epoch}", map_location="cpu", weights_only=False)
    return content["state_dict"]


def facts(log):
    """Return the lines of a log from the trainer on, without times, paths, progress bars and warnings."""
    log = log[log.index("Loading trainer") :]
    log = re.sub(r"time \S+ \(\S+\) data \S+ \(\S+\) ", "", log)
    log = re.sub(r"eta \S+|Elapsed: \S+|(?<=[ =\"])/[^ \n]*/", "", log)
    # losses are equal up to rounding: the last digit may differ
    log = re.sub(r"(loss \d\.\d{3})\d \((\d\.\d{3})\d\)", r"\1 (\2)", log)
    return [line for line in log.splitlines() if not re.search(r"it/s|s/it|Warning|warn|^\s*$|torch\.load", line)]


def rates(log):
    """Return the rates printed with the last batch of each epoch, after the step of the scheduler."""
    return [rate for _, rate in re.findall(r"batch \[(\d+)/\1\].* lr (\S+)", log)]


def accuracy(log):
    return float(re.findall(r"\* accuracy: ([\d.]+)%", log)[-1])


def test_coop_trains_resumes_and_evaluates(data, clip, tmp_path):
    coop = checkout("coop")
    whole = run_checkout(coop, train_args(data, tmp_path / "whole", "CoOp", "OPTIM.MAX_EPOCH", 4), clip=clip)
    assert "Finish training" in whole
    assert rates(whole) == ["2.0000e-03", "1.7071e-03", "1.0000e-03", "2.9289e-04"]

    options = ["OPTIM.MAX_EPOCH", 4, "TRAIN.CHECKPOINT_FREQ", 1]
    run_checkout(coop, train_args(data, tmp_path / "cut", "CoOp", *options), clip=clip)
    folder = tmp_path / "cut" / "prompt_learner"
    for epoch in (3, 4):  # as if killed in the third epoch
        (folder / f"model.pth.tar-{epoch}").unlink()
    (folder / "checkpoint").write_text("model.pth.tar-2\n")
    resumed = run_checkout(coop, train_args(data, tmp_path / "cut", "CoOp", *options), clip=clip)
    assert rates(resumed) == ["1.0000e-03", "2.9289e-04"]
    for key, value in prompts(tmp_path / "whole", 4).items():
        assert torch.equal(value, prompts(tmp_path / "cut", 4)[key]), key

    flags = ["--eval-only", "--model-dir", tmp_path / "whole", "--load-epoch", 4, "DATASET.SUBSAMPLE_CLASSES", "all"]
    evaluated = run_checkout(coop, train_args(data, tmp_path / "eval", "CoOp", *flags), clip=clip)
    assert accuracy(evaluated) == accuracy(whole)
    torch.load(folder / "model.pth.tar-4", weights_only=True)


def test_coop_generalizes_from_base_to_new(data, clip, tmp_path):
    coop = checkout("coop")
    run_checkout(coop, train_args(data, tmp_path, "CoOp", "DATASET.SUBSAMPLE_CLASSES", "base"), clip=clip)
    flags = ["--eval-only", "--model-dir", tmp_path, "--load-epoch", 2, "DATASET.SUBSAMPLE_CLASSES", "new"]
    assert "* total: 12" in run_checkout(coop, train_args(data, tmp_path / "new", "CoOp", *flags), clip=clip)


def test_zero_shot_and_cocoop_run(data, clip, tmp_path):
    coop = checkout("coop")
    # its zero-shot trainer computes in fp16
    log = run_checkout(coop, train_args(data, tmp_path / "zs", "ZeroshotCLIP2", "--eval-only"), clip=clip, check=False)
    assert "* total: 24" in log or "not implemented for 'Half'" in log
    options = ["TRAINER.COCOOP.PREC", "fp32", "DATALOADER.TRAIN_X.BATCH_SIZE", 1, "OPTIM.MAX_EPOCH", 1]
    args = train_args(data, tmp_path / "cocoop", "CoCoOp", *options, config=COCOOP, shots=1)
    assert "Finish training" in run_checkout(coop, args, clip=clip)


def test_maple_trains_and_evaluates(tmp_path):
    """In fp16, because the checkout's MaPLe halves its projection regardless of PREC, and so fails in fp32 on a CPU."""
    maple = checkout("maple")
    data = make_caltech_tree(tmp_path / "data", classes=2, images=6)
    clip = save_tiny_clip_archive(tmp_path / "wide.pt", WIDE)
    options = ["TRAINER.MAPLE.PREC", "fp16", "TRAINER.MAPLE.PROMPT_DEPTH", 2, "DATALOADER.TRAIN_X.BATCH_SIZE", 2]
    args = train_args(data, tmp_path / "out", "MaPLe", *options, config=MAPLE, shots=1)
    trained = run_checkout(maple, args, clip=clip, timeout=900)
    assert rates(trained) == ["3.5000e-03", "1.7500e-03"]
    assert "prompt_learner.ctx" in prompts(tmp_path / "out", 2, "MultiModalPromptLearner")
    flags = ["--eval-only", "--model-dir", tmp_path / "out", "--load-epoch", 2, *options]
    args = train_args(data, tmp_path / "eval", "MaPLe", *flags, config=MAPLE, shots=1)
    assert accuracy(run_checkout(maple, args, clip=clip, timeout=900)) == accuracy(trained)


def test_coop_gives_the_same_results_as_on_real_dassl(data, clip, tmp_path, real_dassl):
    options = ["INPUT.TRANSFORMS", "['normalize']", "DATALOADER.NUM_WORKERS", 1, "TRAIN.PRINT_FREQ", 1]
    logs = {}
    for engine in ("dassl", "bundled"):
        shutil.rmtree(data / "caltech-101" / "split_fewshot", ignore_errors=True)  # each engine draws its own shots
        args = train_args(data, tmp_path / engine, "CoOp", *options)
        logs[engine] = run_checkout(checkout("coop"), args, clip=clip, engine=engine)
    assert facts(logs["bundled"]) == facts(logs["dassl"])
    real, bundled = prompts(tmp_path / "dassl", 2), prompts(tmp_path / "bundled", 2)
    assert real.keys() == bundled.keys()
    for key in real:
        torch.testing.assert_close(bundled[key], real[key], rtol=0, atol=1e-7)


def test_each_engine_evaluates_checkpoints_of_the_other(data, clip, tmp_path, real_dassl):
    coop, accuracies = checkout("coop"), {}
    for writer, reader in (("dassl", "bundled"), ("bundled", "dassl")):
        args = train_args(data, tmp_path / writer, "CoOp", "INPUT.TRANSFORMS", "['normalize']")
        trained = run_checkout(coop, args, clip=clip, engine=writer)
        flags = ["--eval-only", "--model-dir", tmp_path / writer, "--load-epoch", 2, "TRAINER.COOP.PREC", "fp32"]
        read = run_checkout(coop, train_args(data, tmp_path / "eval", "CoOp", *flags), clip=clip, engine=reader)
        assert accuracy(read) == accuracy(trained)
        accuracies[writer] = accuracy(trained)
    assert accuracies["dassl"] == accuracies["bundled"]


def test_run_of_real_dassl_resumes_along_the_cosine_schedule(data, clip, tmp_path, real_dassl):
    """A run that real Dassl resumes keeps the learning rate of the checkpoint."""
    coop = checkout("coop")
    options = ["OPTIM.MAX_EPOCH", 4, "TRAIN.CHECKPOINT_FREQ", 2, "DATASET.SUBSAMPLE_CLASSES", "all"]
    args = train_args(data, tmp_path, "CoOp", *options)
    run_checkout(coop, args, clip=clip, engine="dassl")
    (tmp_path / "prompt_learner" / "checkpoint").write_text("model.pth.tar-2\n")
    resumed = run_checkout(coop, args, clip=clip, engine="bundled")
    assert "Loaded scheduler" in resumed
    assert rates(resumed) == ["1.0000e-03", "2.9289e-04"]
