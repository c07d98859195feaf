"""More habits of others: how trainers make, read, replace and save what they train (tests/dropin_checkout)."""

import pytest
import torch

from qprompt.errors import UserError
from qprompt.prompt_files import packing
from qprompt.quantization.api import quantized_parameters
from qprompt.training import saved_values
from tests.miniature import build_in, checkout  # noqa: F401 (fixtures)
from tests.test_zoo import logits, quantized

# torch.jit.script is deprecated; checkouts of others call it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")


def write(module, values):
    own = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


@pytest.mark.parametrize(
    "name", ["InferenceMode", "Arrays", "CopiesInSteps", "PreHook", "WeightNorm", "ScriptedEncoder"]
)
def test_prompt_file_holds_what_the_trained_model_uses(build, tmp_path, name):
    trainer = build(f"Q{name}")
    before = quantized(trainer)
    trainer.train()
    assert not torch.equal(quantized(trainer), before)
    stored = packing.load(tmp_path / "output" / "prompt.qprompt")
    assert len(stored["prompt_learner.ctx"].unique()) == 2
    plain = build(name, output="plain")
    write(plain.model, {n: v for n, v in stored.items() if "parametrizations" not in n})
    if name == "WeightNorm":  # not chosen, and stored as it was trained
        assert list(quantized_parameters(trainer.prompted)) == ["prompt_learner.ctx"]
        plain.model.prompt_learner.proj.load_state_dict(trainer.model.prompt_learner.proj.state_dict())
    own, theirs = (torch.as_tensor(logits(t)) for t in (plain, trainer))
    assert torch.equal(own, theirs)


def test_a_test_that_reads_parameters_in_another_way_sees_the_quantized_values(build, tmp_path):
    trainer = build("QOwnTest")
    trainer.train()
    ctx = trainer.model.prompt_learner.ctx
    assert len(ctx.unique()) > 2  # put back after the test
    plain = build("OwnTest", output="plain")
    write(plain.model, packing.load(tmp_path / "output" / "prompt.qprompt"))
    plain.test()
    assert torch.equal(trainer.seen, plain.seen)
    trainer.test()
    assert torch.equal(trainer.seen, plain.seen)


def test_values_that_a_test_loads_stay(build):
    trainer = build("QPrompted")
    with trainer._values_in_place(), torch.no_grad():
        trainer.model.prompt_learner.ctx.fill_(0.5)
    assert torch.equal(trainer.model.prompt_learner.ctx, torch.full((4, 8), 0.5))
    assert all(fake.stored is None for fake, _ in quantized_parameters(trainer.prompted).values())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("View", r"full-precision values of prompt_learner\.ctx \(prompt_learner\.flat"),
        ("ScriptedLearner", r"torch\.jit\.script compiled.*EXCLUDE"),
        ("LateOptimizer", r"no optimizer .*INCLUDE \"\('prompt_learner\.ctx', 'prompt_learner\.proj\.weight',\)"),
    ],
)
def test_refused_before_training(build, name, said):
    with pytest.raises(UserError, match=said):
        build(f"Q{name}")
    build(name)  # itself it works


def test_own_loop_that_trains_in_full_precision_is_refused(build):
    trainer = build("QLoopOutside")
    with pytest.raises(UserError, match=r"trains prompt_learner\.ctx, prompt_learner\.proj\.weight in full precision"):
        trainer.train()


def test_steps_of_an_optimizer_that_is_made_later_are_counted(build, tmp_path):
    trainer = build("QLateOptimizer", "TRAINER.QUANT.INCLUDE", ("prompt_learner.ctx",))
    trainer.train()
    fake, weight = quantized_parameters(trainer.prompted)["prompt_learner.ctx"]
    assert fake.step == len(trainer.train_loader_x)
    stored = packing.load(tmp_path / "output" / "prompt.qprompt")["prompt_learner.ctx"]
    assert torch.equal(stored, fake(weight))


def test_a_learner_that_is_made_again_is_quantized_again(build, tmp_path, capsys):
    trainer = build("QRebuilt")
    old = trainer.model.prompt_learner
    trainer.train()
    assert trainer.model.prompt_learner is not old
    assert "replaced prompt_learner.ctx, prompt_learner.proj.weight after build_model" in capsys.readouterr().out
    stored = packing.load(tmp_path / "output" / "prompt.qprompt")["prompt_learner.ctx"]
    assert len(stored.unique()) == 2
    assert torch.equal(stored, quantized(trainer))


def test_models_of_a_list_are_searched(build):
    trainer = build("QModelList")
    assert {n.partition(".")[0] for n in quantized_parameters(trainer.prompted)} == {"first", "models_1"}


def test_a_prompt_that_is_made_later_is_named(build, capsys):
    build("QLateParameter").train()
    assert "not quantized: prompt_learner.ctx_late, which the trainer made after" in capsys.readouterr().out


def test_quantized_values_written_without_a_state_dict_are_used_as_they_are(build):
    trained = build("QPrompted", seed=2)
    trained.train()
    values = {name: fake(weight).detach() for name, (fake, weight) in quantized_parameters(trained.prompted).items()}
    trainer = build("QPrompted", output="written")
    write(trainer.model, values)
    trainer.test()
    assert torch.equal(quantized(trainer), values["prompt_learner.ctx"])


def test_save_imported_by_name_and_a_dict_of_parameters(build, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", torch.save)  # put back afterwards
    saved_values.watch_saving()
    from torch import save

    trainer = build("QPrompted")
    trainer.train()
    save(dict(trainer.model.prompt_learner.named_parameters()), tmp_path / "own.pt")
    own = torch.load(tmp_path / "own.pt", weights_only=True)
    assert set(own) == {"ctx", "proj.weight", "proj.bias"}
    assert torch.equal(own["ctx"], quantized(trainer))
