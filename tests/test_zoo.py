"""Quantized trainers with the habits of others: quantized as they should be, or refused by name; never in silence."""

import os
import subprocess

import pytest
import torch
from commands import python

from qprompt.dropin import config_keys, fast_text
from qprompt.errors import UserError
from qprompt.prompt_files import packing
from qprompt.quantization.api import quantized_parameters
from qprompt.training import saved_values
from qprompt.training.probe import copy_of
from tests import miniature
from tests.miniature import build_in, checkout  # noqa: F401 (fixtures)
from tests.upstream import ROOT

WORK = [
    "Shared",
    "GradientsOfTheLeaf",
    "NamedRates",
    "MetaLearner",
    "AverageByName",
    "AverageObject",
    "OwnLoop",
    "TwoOptimizers",
    "Tuples",
    "Caching",
    "WritesData",
]


def logits(trainer):
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    trainer = copy_of(trainer)
    trainer.set_model_mode("eval")
    with torch.no_grad():
        out = trainer.model_inference(images)
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("name", WORK)
def test_prompt_file_holds_what_the_trained_model_uses(build, tmp_path, name):
    """Put the stored values into a plain trainer: its logits must be those of the quantized one."""
    trainer = build(f"Q{name}")
    before = {n: p.detach().clone() for n, p in trainer.prompted.named_parameters() if p.requires_grad}
    trainer.train()
    stored = packing.load(tmp_path / "output" / "prompt.qprompt")
    assert set(stored) >= {"prompt_learner.ctx", "prompt_learner.proj.weight", "prompt_learner.proj.bias"}
    assert all(len(stored[n].unique()) == 2 for n in ("prompt_learner.ctx", "prompt_learner.proj.weight"))
    plain = build(name, output="plain")
    own = dict(plain.model.named_parameters())
    with torch.no_grad():
        for key, value in stored.items():
            own[key].copy_(value)
        if name == "AverageObject":
            plain.average.model.load_state_dict(plain.model.state_dict())
    assert torch.equal(logits(plain), logits(trainer))
    moved = [n for n, p in trainer.prompted.named_parameters() if n in before and not torch.equal(p, before[n])]
    assert set(moved) >= set(before)  # in full precision: single steps are not lost


@pytest.mark.parametrize("name", WORK)
def test_parameters_keep_name_place_and_identity(build, name):
    trainer = build(f"Q{name}")
    learner = trainer.model.prompt_learner
    ctx, names = learner.ctx, [n for n, _ in trainer.model.named_parameters()]
    trainer.train()
    assert learner.ctx is ctx
    assert isinstance(ctx, torch.nn.Parameter)
    assert names == [n for n, _ in trainer.model.named_parameters()]
    assert not any("parametrizations" in n for n in names)
    assert "ctx" in learner._parameters


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Closure", r"computes with the full-precision values of prompt_learner\.ctx: .*EXCLUDE"),
        ("ClosureToo", r"full-precision values of prompt_learner\.ctx:"),
        ("SecondPlace", r"full-precision values of prompt_learner\.ctx \(model\.text_encoder\.contexts"),
        ("OutsideForward", r"prompt_learner\.ctx, prompt_learner\.proj\.weight"),
        ("WritesInForward", r"forward pass of WritingLearner writes to ctx"),
    ],
)
def test_what_is_not_used_as_stored_is_refused_before_training(build, name, said):
    with pytest.raises(UserError, match=said):
        build(f"Q{name}")
    build(name)  # itself it works


def test_a_tensor_that_inference_does_not_use_is_left_out(build, tmp_path, capsys):
    trainer = build("QSpare")
    assert "left out, since inference does not use them: prompt_learner.ctx_spare" in capsys.readouterr().out
    assert "prompt_learner.ctx_spare" not in quantized_parameters(trainer.prompted)
    trainer.train()
    stored = packing.load(tmp_path / "output" / "prompt.qprompt")
    assert torch.equal(stored["prompt_learner.ctx_spare"], trainer.model.prompt_learner.ctx_spare)
    with pytest.raises(UserError, match="ctx_spare does not change the logits"):
        build("QSpare", "TRAINER.QUANT.INCLUDE", ("*.ctx*",))


def test_training_in_full_precision_is_refused_at_the_first_step(build, tmp_path):
    trainer = build("QTrainsOutside")
    with pytest.raises(UserError, match=r"trains prompt_learner\.ctx in full precision.*EXCLUDE"):
        trainer.train()
    assert not (tmp_path / "output" / "prompt.qprompt").exists()
    build("QTrainsOutside", "TRAINER.QUANT.EXCLUDE", ("prompt_learner.ctx",), output="excluded").train()


def test_advice_of_a_refusal_works(build):
    trainer = build("QClosure", "TRAINER.QUANT.EXCLUDE", ("prompt_learner.ctx",))
    assert list(quantized_parameters(trainer.prompted)) == ["prompt_learner.proj.weight"]


def test_values_written_to_data_are_used(build):
    trainer = build("QWritesData", "TRAINER.QUANT.BITS", 2)
    trainer.before_train()
    fake, weight = quantized_parameters(trainer.prompted)["prompt_learner.ctx"]
    assert torch.equal(weight, torch.linspace(-1, 1, 32).view(4, 8))
    own = logits(trainer)
    weight.data.mul_(-1)
    assert not torch.equal(own, logits(trainer))


def test_every_gradient_reaches_the_parameter_itself(build):
    trainer = build("QPrompted")
    trainer.batch_idx, trainer.num_batches = 0, 4
    batch = next(iter(trainer.train_loader_x))
    trainer.forward_backward(batch)
    ctx = trainer.model.prompt_learner.ctx
    assert ctx.grad is not None
    image, label = trainer.parse_batch_train(batch)
    loss = torch.nn.functional.cross_entropy(trainer.model(image), label)
    (gradient,) = torch.autograd.grad(loss, [ctx])
    # Straight-through: the gradient of the plain model at the quantized values.
    plain = build("Prompted", output="plain")
    plain.model.load_state_dict({k: v for k, v in trainer.model.state_dict().items() if "parametrizations" not in k})
    assert torch.equal(plain.model.prompt_learner.ctx.unique(), quantized(trainer).unique())
    loss = torch.nn.functional.cross_entropy(plain.model(image), label)
    assert torch.equal(torch.autograd.grad(loss, [plain.model.prompt_learner.ctx])[0], gradient)


def quantized(trainer, name="prompt_learner.ctx"):
    fake, weight = quantized_parameters(trainer.prompted)[name]
    return fake(weight).detach()


def test_saved_model_works_without_the_trainer(build, tmp_path):
    trainer = build("QPrompted")
    trainer.train()
    torch.save(trainer.model, tmp_path / "model.pt")
    model = torch.load(tmp_path / "model.pt", weights_only=False)
    images = torch.rand(5, 3, 8, 8)
    assert torch.equal(model(images), trainer.model(images))


def test_what_a_script_saves_by_itself_is_quantized(build, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "save", torch.save)  # put back afterwards
    monkeypatch.setattr(saved_values, "_said", set())
    trainer = build("QSaves")
    trainer.train()
    out, ctx = tmp_path / "output", quantized(trainer)
    held = torch.load(out / "step.pt", weights_only=True)
    step, after = held["step"]["weights"], torch.load(out / "after.pt", weights_only=True)
    assert held["lr"] == 1.0
    for state in (step, after):
        assert torch.equal(state["prompt_learner.ctx"], ctx)
        original = state["prompt_learner.parametrizations.ctx.original"]
        assert torch.equal(original, trainer.model.prompt_learner.ctx) and not torch.equal(original, ctx)
    learner, half = torch.load(out / "bare.pt", weights_only=True)
    assert isinstance(learner, torch.nn.Parameter) and torch.equal(learner, ctx)
    assert torch.equal(half, ctx.half())
    said = capsys.readouterr().out
    assert said.count("step.pt holds the quantized values of prompt_learner.ctx, prompt_learner.proj.weight") == 1
    assert said.count("doubled.pt holds other values of prompt_learner.ctx, prompt_learner.proj.weight than the") == 1
    assert "after.pt" not in said
    trainer.model.load_state_dict(step)
    assert torch.equal(quantized(trainer), ctx)
    plain = build("Saves", output="plain", seed=2)  # where nothing is quantized
    torch.save(plain.model.prompt_learner.ctx, out / "plain.pt")
    assert torch.equal(torch.load(out / "plain.pt", weights_only=True), plain.model.prompt_learner.ctx)


def test_other_state_that_training_changes_is_named(build, capsys):
    trainer = build("QRemembers")
    trainer.train()
    said = [line for line in capsys.readouterr().out.splitlines() if "beside its parameters" in line]
    (line,) = said
    assert "training changed prompt_learner.mean, model.memory: the prompt file does not hold them" in line
    build("QCaching", output="caching").train()
    assert "beside its parameters" not in capsys.readouterr().out


def test_a_test_of_untrained_prompts_is_said_aloud(build, capsys):
    said = "tests the prompts as they were initialized"
    trainer = build("QPrompted")
    trainer.test()
    trainer.test()
    assert capsys.readouterr().out.count(said) == 1
    trained = build("QPrompted")
    trained.train()
    loaded = build("QPrompted", output="loaded")
    loaded.model.load_state_dict(trained.model.state_dict())
    loaded.test()
    assert said not in capsys.readouterr().out


def test_functional_call_quantizes_the_weights_it_is_given(build):
    trainer = build("QPrompted")
    images, other = torch.rand(5, 3, 8, 8), 3 * torch.randn(4, 8)
    given = torch.func.functional_call(trainer.model, {"prompt_learner.ctx": other}, images)
    with torch.no_grad():
        trainer.model.prompt_learner.ctx.copy_(other)
    assert torch.equal(given, trainer.model(images))


def test_an_error_in_the_forward_pass_puts_the_parameters_back(build):
    trainer = build("QPrompted")
    ctx = trainer.model.prompt_learner.ctx
    with pytest.raises(RuntimeError):
        trainer.model(torch.rand(5, 3, 9, 9))
    assert trainer.model.prompt_learner.ctx is ctx
    assert torch.isfinite(trainer.model(torch.rand(5, 3, 8, 8))).all()


def test_probing_leaves_no_trace(build):
    plain = build("Caching", output="plain")
    drawn = torch.rand(1)  # after the seed and the model
    trainer = build("QCaching")
    assert torch.equal(torch.rand(1), drawn)
    assert trainer.model.text_features is None
    assert all(map(torch.equal, trainer.model.parameters(), plain.model.parameters()))


def test_noise_of_a_quantized_run_is_that_of_its_values(build):
    trainer = build("QPrompted")
    images = torch.rand(2, 3, 8, 8)
    twins = copy_of(trainer), fast_text._moved_by_a_rounding(copy_of(trainer), 1)
    before, moved = (fast_text._results(twin, images) for twin in twins)
    assert len(before) == len(moved) == 3 + 3  # logits three times, and three gradients
    assert 0 < fast_text._largest(before, moved) < 1e-4


def test_vectors_of_prompts_are_chosen_and_the_rest_is_named(build, capsys):
    trainer = build("QExtras")
    assert list(quantized_parameters(trainer.prompted)) == [
        "prompt_learner.ctx",
        "prompt_learner.proj.weight",
        "representation_learner.compound_rep_tokens",
    ]
    said = capsys.readouterr().out
    for name in (
        "layer_scales",
        "permutation_logits",
        "projector.weight",
        "adaptor.weight",
        "context_model.inner.weight",
    ):
        assert name in said.partition("trained, but not quantized")[2]
    typed = said.partition("TRAINER.QUANT.INCLUDE ")[2].partition("\n")[0].strip('"')
    trainer = build(
        "QExtras", "TRAINER.QUANT.INCLUDE", typed, "TRAINER.QUANT.EXCLUDE", ("*.projector.weight",), output="typed"
    )
    assert "context_model.inner.weight" in quantized_parameters(trainer.prompted)


def test_kin_of_maple_starts_at_four_bits(build, monkeypatch):
    monkeypatch.setattr(config_keys, "given", set())
    trainer = build("QPrompted")  # ctx and proj.weight, as MaPLe
    assert {fake.config.bits for fake, _ in quantized_parameters(trainer.prompted).values()} == {4}
    assert trainer.cfg.TRAINER.QUANT.BITS == 4
    monkeypatch.setattr(config_keys, "given", {"BITS"})
    trainer = build("QPrompted")
    assert {fake.config.bits for fake, _ in quantized_parameters(trainer.prompted).values()} == {1}


def launch(folder, name, *words):
    common = ["-m", "qprompt", "train.py", "--root", str(folder), "--output-dir", str(folder / "out"), "--trainer"]
    return subprocess.run(
        [python(), *common, name, *words],
        cwd=miniature.FOLDER,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "QPROMPT_ENGINE": "bundled"},
        text=True,
        capture_output=True,
    )


def test_prompt_is_stored_where_the_test_ends_the_process(tmp_path):
    done = launch(tmp_path, "QExits", "TRAINER.QUANT.BITS", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tested" in done.stdout
    assert "qprompt:" not in done.stderr
    assert len(packing.load(tmp_path / "out" / "prompt.qprompt")["prompt_learner.ctx"].unique()) == 2


def test_launcher_says_so_if_no_prompt_was_stored(tmp_path):
    done = launch(tmp_path, "QStepsOnly", "--test-only")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "qprompt: QStepsOnly trained, but no prompt file was written" in done.stderr


def test_one_line_of_an_error_is_shown_where_the_script_catches_it(tmp_path):
    done = launch(tmp_path, "QClosure", "--catch")
    assert done.returncode == 2
    assert "something failed" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("qprompt: QClosure computes with the full-precision values")


def test_a_failing_diagnostic_does_not_end_a_run(build, monkeypatch, capsys):
    def fail(*args):
        raise RuntimeError("range is not finite")

    monkeypatch.setattr(torch, "histc", fail)
    trainer = build("QPrompted")
    trainer.train()
    said = capsys.readouterr()
    assert "quantization.npz ends here: RuntimeError: range is not finite" in said.out + said.err
