"""``python -m qprompt`` in unmodified checkouts of CoOp, MaPLe, PromptSRC and KgCoOp: every trainer X, and QX.

QPROMPT_COOP, QPROMPT_MAPLE, QPROMPT_PROMPTSRC and QPROMPT_KGCOOP are the paths of the checkouts; tests without one are
skipped. With QPROMPT_DASSL, and a torch that real Dassl supports, everything also runs on real Dassl.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from qprompt.__main__ import main
from tests.test_engine_parity import usable_here
from tests.upstream import (
    PIXELS,
    ROOT,
    SMALL,
    VARIABLES,
    ClipShape,
    checkout,
    make_caltech_tree,
    run_checkout,
    save_tiny_clip_archive,
    train_args,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

RECORDING = str(Path(__file__).with_name("recording.py"))
WIDE = ClipShape(512, PIXELS, 2, 768, 16, 512, 8, 2)
PROMPTSRC = ("TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", 2, "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT", 2)
IVLP = ("TRAINER.IVLP.PREC", "fp32", "TRAINER.IVLP.PROMPT_DEPTH_VISION", 2, "TRAINER.IVLP.PROMPT_DEPTH_TEXT", 2)
VPT = ("TRAINER.VPT.PREC", "fp32", "TRAINER.VPT.PROMPT_DEPTH_VISION", 2)
COCOOP = ("TRAINER.COCOOP.PREC", "fp32")
# (checkout, trainer) -> folder of the checkpoints, config file, options. MaPLe and PromptSRC only run in fp16.
TRAINERS = {
    ("coop", "CoOp"): ("prompt_learner", "CoOp/vit_b16.yaml", ()),
    ("coop", "CoCoOp"): ("prompt_learner", "CoCoOp/vit_b16_c4_ep10_batch1_ctxv1.yaml", COCOOP),
    ("maple", "MaPLe"): (
        "MultiModalPromptLearner",
        "MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml",
        ("TRAINER.MAPLE.PROMPT_DEPTH", 2),
    ),
    ("maple", "IVLP"): ("VLPromptLearner", "IVLP/vit_b16_c2_ep5_batch4_2+2ctx.yaml", IVLP),
    ("maple", "VPT"): ("prompt_learner", "VPT/vit_b16_c2_ep5_batch4_4.yaml", VPT),
    ("maple", "CoOp"): ("prompt_learner", "CoOp/vit_b16.yaml", ()),
    ("maple", "CoCoOp"): ("prompt_learner", "CoCoOp/vit_b16_c4_ep10_batch1_ctxv1.yaml", COCOOP),
    ("promptsrc", "PromptSRC"): ("VLPromptLearner", "PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx.yaml", PROMPTSRC),
    ("kgcoop", "KgCoOp"): ("prompt_learner", "KgCoOp/vit_b16_ep100_ctxv1.yaml", COCOOP),
    ("kgcoop", "ProGrad"): ("prompt_learner", "ProGrad/rn50.yaml", ("LOSS.NAME", "prograd")),
}
NEEDS_ITS_FORK = {("kgcoop", "ProGrad")}  # needs its own fork of Dassl to train without the launcher


@pytest.fixture(scope="module", params=["bundled", "dassl"])
def engine(request):
    if request.param == "dassl":
        fault = usable_here(checkout("dassl"))
        if fault:
            pytest.skip(fault)
    return request.param


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_caltech_tree(tmp_path_factory.mktemp("data"), classes=4, images=6)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    small = save_tiny_clip_archive(folder / "small.pt", SMALL)
    return {"coop": small, "wide": save_tiny_clip_archive(folder / "wide.pt", WIDE)}


@pytest.fixture
def run(engine, data, archives, tmp_path):
    """run(repository, trainer, output, *flags) -> (log, logits of the test)."""

    def go(repository, trainer, output, *flags, launched=True, classes="base", config=None, precision=()):
        folder = checkout(repository)
        base = trainer if (repository, trainer) in TRAINERS else trainer.removeprefix("Q")
        _, file, options = TRAINERS[repository, base]
        arguments = train_args(data, tmp_path / output, trainer, *flags, *options, config=file, shots=2)
        arguments += ["DATALOADER.TRAIN_X.BATCH_SIZE", "4", "DATALOADER.TEST.BATCH_SIZE", "4"]
        arguments += ["DATASET.SUBSAMPLE_CLASSES", classes]
        logits = tmp_path / f"{output}.pt"
        log = run_checkout(
            folder,
            arguments,
            clip=archives["coop" if repository == "coop" else "wide"],
            engine="none" if launched and engine == "bundled" else engine,
            program=[RECORDING, str(logits), *(["-m", "qprompt", *precision] if launched else []), "train.py"],
            env={"QPROMPT_ENGINE": engine},
        )
        if os.environ.get("QPROMPT_KEEP_LOGS"):
            copy = Path(os.environ["QPROMPT_KEEP_LOGS"]) / f"{engine}-{repository}-{trainer}-{output}.txt"
            copy.write_text(log, encoding="utf-8")
        return log, torch.load(logits, weights_only=True)

    return go


def state(tmp_path, output, repository, trainer):
    path = tmp_path / output / TRAINERS[repository, trainer][0] / "model.pth.tar-2"
    return torch.load(path, map_location="cpu", weights_only=False)["state_dict"]


@pytest.mark.parametrize(("repository", "trainer"), [key for key in TRAINERS if key not in NEEDS_ITS_FORK])
def test_full_precision_run_equals_one_without_the_launcher(run, tmp_path, repository, trainer):
    _, logits = run(repository, trainer, "without", launched=False)
    _, launched = run(repository, trainer, "with")
    assert torch.equal(logits, launched)
    assert torch.isfinite(logits).all()
    a, b = (state(tmp_path, output, repository, trainer) for output in ("without", "with"))
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("repository", "trainer"), TRAINERS)
def test_quantized_checkpoint_evaluates_with_and_without_the_launcher(run, tmp_path, repository, trainer):
    log, logits = run(repository, f"Q{trainer}", "quantized")
    assert "Prompt saved to" in log
    assert torch.isfinite(logits).all()
    evaluate = ("--eval-only", "--model-dir", tmp_path / "quantized", "--load-epoch", 2)
    _, again = run(repository, f"Q{trainer}", "again", *evaluate)
    assert torch.equal(again, logits)
    _, new = run(repository, f"Q{trainer}", "new", *evaluate, classes="new")
    _, theirs = run(repository, trainer, "theirs", *evaluate, launched=False, classes="new")
    assert torch.equal(new, theirs)


@pytest.mark.parametrize(("repository", "trainer"), [("coop", "CoOp"), ("maple", "IVLP")])
def test_full_precision_checkpoint_starts_a_quantized_run(run, tmp_path, repository, trainer):
    run(repository, trainer, "plain", launched=False)
    checkpoint = tmp_path / "plain" / TRAINERS[repository, trainer][0] / "model.pth.tar-2"
    options = ("MODEL.INIT_WEIGHTS", checkpoint, "OPTIM.MAX_EPOCH", 1, "TRAINER.QUANT.BITS", 8)
    log, _ = run(repository, f"Q{trainer}", "started", *options)
    assert "Successfully loaded pretrained weights" in log
    assert "8 bit" in log


@pytest.mark.parametrize(
    ("repository", "trainer", "kind"),
    [("coop", "CoOp", "coop"), ("maple", "MaPLe", "maple"), ("maple", "IVLP", "ivlp"), ("kgcoop", "KgCoOp", "coop")],
)
def test_full_precision_checkpoint_is_packed_and_unpacked(run, tmp_path, repository, trainer, kind):
    """An unmodified ``--eval-only`` evaluates the result."""
    run(repository, trainer, "plain", launched=False)
    checkpoint = tmp_path / "plain" / TRAINERS[repository, trainer][0]
    assert main(["pack", str(checkpoint), "--bits", "4"]) == 0
    packed = str(checkpoint / "prompt.qprompt")
    assert main(["unpack", packed, "--as", kind, "--output-dir", str(tmp_path / "unpacked")]) == 0
    evaluate = ("--eval-only", "--model-dir", tmp_path / "unpacked", "--load-epoch", 1)
    _, logits = run(repository, trainer, "evaluated", *evaluate, launched=False)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("repository", "trainer"), [("coop", "CoOp"), ("maple", "MaPLe")])
def test_three_lines_in_the_script_replace_the_launcher(run, tmp_path, monkeypatch, repository, trainer):
    """Insert the lines of docs/dropin.md into a copy of the checkout's train.py."""
    folder = shutil.copytree(checkout(repository), tmp_path / "copy", ignore=shutil.ignore_patterns(".git"))
    script = (folder / "train.py").read_text(encoding="utf-8")
    documented = (ROOT / "docs" / "dropin.md").read_text(encoding="utf-8")
    imports, *classes, node = re.findall(r"^\+(.+)$", documented, re.MULTILINE)
    (register,) = (line for line in classes if f'"Q{trainer}"' in line)
    engine = "from dassl.engine import {}build_trainer\n"
    last_import = {"coop": "import trainers.zsclip\n", "maple": "import trainers.vpt\n"}[repository]
    edits = {
        engine.format(""): engine.format("TRAINER_REGISTRY, ") + f"{imports}\n",
        last_import: f"{last_import}\n{register}\n",
        "    extend_cfg(cfg)\n": f"    extend_cfg(cfg)\n{node}\n",
    }
    for place, edited in edits.items():
        assert script.count(place) == 1
        script = script.replace(place, edited)
    (folder / "train.py").write_text(script, encoding="utf-8")
    monkeypatch.setenv(VARIABLES[repository], str(folder))
    log, logits = run(repository, f"Q{trainer}", "explicit", launched=False)
    assert "Prompt saved to" in log
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("repository", "trainer"),
    [("coop", "CoOp"), ("maple", "MaPLe"), ("maple", "CoCoOp"), ("promptsrc", "PromptSRC"), ("kgcoop", "KgCoOp")],
)
def test_fast_path_is_used(run, repository, trainer):
    log, logits = run(repository, f"Q{trainer}", "fast", precision=("--fp32", "--fast"))
    assert "--fast: text is encoded up to token" in log
    assert torch.isfinite(logits).all()


def test_maple_in_fp32_needs_the_flag(run):
    fp32 = ("TRAINER.MAPLE.PREC", "fp32")
    log, logits = run("maple", "QMaPLe", "float", *fp32, precision=("--fp32",))
    assert "4 bit" in log  # as published
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_checkout_is_not_changed(run, tmp_path):
    folder = shutil.copytree(checkout("coop"), tmp_path / "copy", ignore=shutil.ignore_patterns(".git"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QPROMPT_COOP", str(folder))
        run("coop", "QCoOp", "untouched")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
