"""examples/qcoop.py takes the steps of the QCoOp trainer and stores the same 68 bytes."""

import ast
import copy
import importlib.util
import math
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from safetensors.torch import load_file

import datasets.tiny_world  # noqa: F401
import trainers.qcoop  # noqa: F401
from qprompt.backbones import load_clip, load_state_dict
from qprompt.backbones.random_weights import ClipShape, write_clip
from qprompt.quantization.api import quantized_parameters
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.fake_quantize import FakeQuantize
from qprompt.runs.config import merge_options
from qprompt.training.defaults import extend_cfg
from qprompt.world import fewshot

SCRIPT = ROOT / "examples" / "qcoop.py"
DRAW, SEED, EPOCHS, STEPS, LR = 0, 1, 6, 42, 0.01
KL_THRESHOLD = 1e-6  # any change of the histogram: the codebook is fitted again several times


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("example_qcoop", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def single_thread():
    """The gradient of the context is a sum over classes; with several threads its order changes from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def short_clip(example, tmp_path_factory):
    """The weights of the embedded CLIP without the positions that no prompt reaches, so that steps are fast."""
    state = load_state_dict("tiny")
    length = int(example.tokenize(fewshot.classes_of(DRAW)).argmax(-1).max()) + 1
    state["positional_embedding"] = state["positional_embedding"][:length]
    shape = ClipShape(128, 48, 4, 128, 8, 128, 2, 4, context_length=length)
    return write_clip(tmp_path_factory.mktemp("clip") / "short.pt", state, shape)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """A data root. There are fewer pictures than usual to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fewshot, "COUNTS", {"train": 20, "val": 4, "test": 2})
        yield tmp_path_factory.mktemp("data")


@pytest.fixture
def build(short_clip, data_root, tmp_path, single_thread):
    """build() -> the QCoOp trainer as train.py builds it."""

    def call():
        cfg = get_cfg_default()
        extend_cfg(cfg)
        cfg.merge_from_file(str(ROOT / "configs/datasets/tiny_world.yaml"))
        cfg.merge_from_file(str(ROOT / "configs/trainers/QCoOp/tiny.yaml"))
        settings = {
            "TRAINER.NAME": "QCoOp",
            "SEED": SEED,
            "DATASET.ROOT": data_root,
            "DATASET.DRAW": DRAW,
            "DATASET.NUM_SHOTS": 16,
            "DATASET.SUBSAMPLE_CLASSES": "base",
            "MODEL.BACKBONE.PATH": short_clip,
            "OUTPUT_DIR": tmp_path / "output",
            "FEATURE_CACHE_MB": 0,
            "OPTIM.MAX_EPOCH": EPOCHS,
            "OPTIM.LR": LR,
            "TRAINER.QUANT.KL_THRESHOLD": KL_THRESHOLD,
            "USE_CUDA": False,
        }
        merge_options(cfg, [str(word) for pair in settings.items() for word in pair])
        cfg.freeze()
        set_random_seed(SEED)
        return build_trainer(cfg)

    return call


def load_example(example, short_clip):
    """The example's CLIP, tokens of base and new classes, and data, loaded in the order of its main()."""
    torch.manual_seed(SEED)
    clip = load_clip("tiny", short_clip)
    base, new, train, *tests = example.load_data(clip, DRAW, SEED)
    return clip, example.shorten_(clip, example.tokenize(base + new)).split(len(base)), train, tests


def check_equal(ours, theirs, step):
    for name, a, b in zip(("loss", "W", "W_q", "codebook", "last fit"), ours, theirs, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)), f"{name} differs at step {step}"


def test_a_run_equals_the_trainers_bit_for_bit(example, build, short_clip, monkeypatch, tmp_path):
    """The same seed gives the same pictures, batches, rates, gradients and prompt file.

    The trainer takes its reference path, which encodes whole prompts with CLIP's own blocks, as the example does.
    """
    monkeypatch.setenv("QPROMPT_REFERENCE", "1")
    clip, tokens, train, tests = load_example(example, short_clip)
    prompt, ours = example.QCoOp(clip, tokens[0], KL_THRESHOLD), []
    for _, loss in prompt.train(*train, EPOCHS, LR):
        quantizer = prompt.quantizer
        ours.append((loss, prompt.W.detach().clone(), prompt.context(), quantizer.c, quantizer.fitted_at))
    assert len(ours) == STEPS
    assert len({last_fit for *_, last_fit in ours}) > 3

    trainer, steps = build(), iter(enumerate(ours))
    fake, weight = quantized_parameters(trainer.model)["prompt_learner.ctx"]
    forward_backward = trainer.forward_backward

    def compared(batch):
        losses, (step, own) = forward_backward(batch), next(steps)
        check_equal(own, (losses["loss"], weight, fake(weight), fake.codebook[0], fake.last_fit), step)
        return losses

    monkeypatch.setattr(trainer, "forward_backward", compared)
    trainer.train()
    assert next(steps, None) is None

    stored = load_file(tmp_path / "output" / trainer.prompt_record["file"])
    packed = example.pack(*prompt.quantizer.quantize(prompt.W.detach()))
    assert packed == b"".join(stored[f"{part}/prompt_learner.ctx"].numpy().tobytes() for part in ("indices", "levels"))
    assert len(packed) == 68
    context = example.unpack(packed, prompt.W.shape[1])
    assert torch.equal(context, prompt.context())
    tests = [(ids, *test) for ids, test in zip(tokens, tests, strict=True)]
    assert f"base {trainer.test():.1f} " in example.evaluate(clip, context, tests)


def test_steps_from_equal_states_equal_the_fast_paths(example, build, short_clip, monkeypatch):
    """By default the trainer skips what no feature depends on, so its sums have other orders: equal to fp32 rounding.

    The example starts every step from the trainer's weights, because a weight between two levels may fall to either
    side by rounding. From equal weights, codebook and quantized values are equal bit for bit.
    """
    monkeypatch.delenv("QPROMPT_REFERENCE", raising=False)
    clip, tokens, _, _ = load_example(example, short_clip)
    prompt = example.QCoOp(clip, tokens[0], KL_THRESHOLD)
    trainer, steps = build(), []
    fake, weight = quantized_parameters(trainer.model)["prompt_learner.ctx"]
    forward_backward = trainer.forward_backward

    def compared(batch):
        start = weight.detach().clone()
        prompt.W.data.copy_(start)
        prompt.optim.load_state_dict(copy.deepcopy(trainer.optim.state_dict()))
        loss, losses = prompt.train_step(batch["img"], batch["label"]), forward_backward(batch)
        theirs = weight.detach()
        torch.testing.assert_close(loss, losses["loss"], rtol=1e-5, atol=0)
        assert (prompt.W - theirs).norm() <= 1e-4 * (start - theirs).norm()  # of what the step changed
        assert (prompt.quantizer.fitted_at, prompt.quantizer.c.tolist()) == (fake.last_fit, fake.codebook[0].tolist())
        index, levels = prompt.quantizer.quantize(theirs)
        assert torch.equal(levels.float()[index].view_as(theirs), fake(theirs))
        steps.append(loss)
        return losses

    monkeypatch.setattr(trainer, "forward_backward", compared)
    trainer.train()
    assert len(steps) == STEPS


@pytest.mark.parametrize("seed", range(20))
def test_quantizer_equals_fake_quantize(example, seed):
    generator = torch.Generator().manual_seed(seed)
    first, other = (torch.randn(2, 4, 128, generator=generator) * 0.02 + 0.001).unbind()
    if seed % 2:
        other = other + 0.02 * first.square().sign() * (torch.rand(4, 128, generator=generator) < seed / 20)
    ours = example.Quantizer(first, t_kl=math.inf)
    theirs = FakeQuantize(first, QuantConfig())
    theirs.fit(first)
    for W in (first, other, torch.zeros(4, 128).index_fill(1, torch.tensor([seed]), 1.0)):  # the last: an empty level
        index, levels = ours.quantize(W)
        assert torch.equal(ours.c, theirs.codebook[0])
        assert torch.equal(levels.float()[index].view_as(W), theirs(W))
        ours.step = example.T
        ours.refresh(W)
        assert ours.kl == pytest.approx(theirs.divergence(W), rel=1e-6, abs=1e-15)


def test_shortened_prompts_have_the_features_of_whole_ones(example):
    """To fp32 rounding: products of other shapes sum in another order."""
    clip = load_clip("tiny")
    tokens = example.tokenize(fewshot.classes_of(DRAW))
    images = torch.randn(5, clip.text_projection.shape[1], generator=torch.Generator().manual_seed(0))
    context = example.QCoOp(clip, tokens).context().detach()
    whole = example.class_logits(clip, images, tokens, context)
    short = example.shorten_(clip, tokens)
    assert short.shape[1] < tokens.shape[1]
    torch.testing.assert_close(example.class_logits(clip, images, short, context), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_runs_as_a_script(tmp_path):
    out = tmp_path / "prompt.bin"
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--epochs", "2", "--seed", "3", "--draw", "1", "--out", str(out)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert out.stat().st_size == 68
    assert "base" in run.stdout and "H " in run.stdout and "68 bytes" in run.stdout and "bit for bit" in run.stdout


def test_shows_the_whole_method_in_under_200_lines():
    text = SCRIPT.read_text(encoding="utf-8")
    assert text.count("\n") < 200
    nodes = list(ast.walk(ast.parse(text)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names} == {
        "numpy",
        "torch",
        "torch.nn.functional",
        "torch.utils.data",
        "qprompt.backbones",
        "qprompt.world",
    }
