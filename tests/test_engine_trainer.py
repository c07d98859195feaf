"""The bundled engine's training loop: log lines, checkpoints, resuming."""

import re
import sys

import pytest
import torch

from qprompt.engine import activate
from qprompt.errors import UserError
from qprompt.io.nested import flatten, to_dict
from qprompt.runs import identity

if activate().name != "bundled":
    pytest.skip("tests of the bundled engine", allow_module_level=True)

from dassl.config import get_cfg_default  # noqa: E402
from dassl.engine.run_state import training_settings  # noqa: E402
from engine_toys import engine_cfg, engine_trainer, pictures, train_until  # noqa: E402


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_log_lines_are_dassls(tmp_path, capsys):
    trainer = engine_trainer(tmp_path, tmp_path / "out", OPTIM__MAX_EPOCH=2)
    trainer.train()
    log = capsys.readouterr().out
    lines = [
        r"Loading trainer: EngineLinear",
        r"Loading dataset: EnginePictures",
        r"Creating a 5-shot dataset",
        r"Building transform_train",
        r"\+ random resized crop \(size=\(16, 16\), scale=\(0.08, 1.0\)\)",
        r"Dataset    EnginePictures",
        r"# train_x  20",
        r"Loading evaluator: Classification",
        r"No checkpoint found, train from scratch",
        r"Initialize tensorboard \(log_dir=.*tensorboard\)",
        r"epoch \[1/2\] batch \[1/2\] time \d\.\d{3} \(\d\.\d{3}\) data \d\.\d{3} \(\d\.\d{3}\) "
        r"loss \d+\.\d{4} \(\d+\.\d{4}\) acc \d+\.\d{4} \(\d+\.\d{4}\) lr 1\.0000e-05 eta \d:\d\d:\d\d",
        r"epoch \[2/2\] batch \[2/2\] .* lr 5\.0000e-03 eta 0:00:00",
        r"Checkpoint saved to .*/linear/model\.pth\.tar-2",
        r"Finish training",
        r"Deploy the last-epoch model",
        r"Evaluate on the \*test\* set",
        r"=> result",
        r"\* total: 32",
        r"\* accuracy: \d+\.\d%",
        r"Elapsed: \d:\d\d:\d\d",
    ]
    where = 0
    for line in lines:
        found = re.compile(f"^{line}$", re.MULTILINE).search(log, where)
        assert found, f"no line {line!r} after {log[:where][-200:]!r}"
        where = found.end()


def test_checkpoint_files_hold_plain_values_only(tmp_path):
    trainer = engine_trainer(tmp_path, tmp_path / "out")
    trainer.train()
    folder = tmp_path / "out" / "linear"
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint",
        "model.pth.tar-2",
        "model.pth.tar-4",
        "model.pth.tar-6",
    ]
    assert (folder / "checkpoint").read_text() == "model.pth.tar-6\n"
    content = torch.load(folder / "model.pth.tar-6", weights_only=True)
    assert content["epoch"] == 6
    assert same(content["state_dict"], weights(trainer))
    assert content["scheduler"]["successor_state"]["last_epoch"] == 5
    assert content["run"]["config"]["OPTIM.LR"] == 0.01
    assert content["run"]["classnames"] == [f"class {i}" for i in range(4)]


@pytest.mark.parametrize("died_in", [1, 3, 5])
@pytest.mark.parametrize("final", ["last_step", "best_val"])
def test_resumed_run_is_bit_identical(tmp_path, died_in, final):
    options = {"TEST__FINAL_MODEL": final, "OPTIM__NAME": "adamw" if final == "best_val" else "sgd"}
    whole = engine_trainer(tmp_path, tmp_path / "whole", **options)
    whole.train()
    killed = engine_trainer(tmp_path, tmp_path / "killed", **options)
    train_until(killed, died_in)
    resumed = engine_trainer(tmp_path, tmp_path / "killed", **options)
    resumed.train()
    assert same(weights(whole), weights(resumed))
    assert whole.best_result == resumed.best_result
    steps = len(resumed.seen)
    assert steps < len(whole.seen) or died_in == 1 and final == "last_step"
    assert resumed.seen == whole.seen[-steps:]  # the same images at the same learning rates
    last = [torch.load(tmp_path / run / "linear" / "model.pth.tar-6", weights_only=True) for run in ("whole", "killed")]
    assert torch.equal(last[0]["run"]["random"]["torch"], last[1]["run"]["random"]["torch"])
    assert last[0]["scheduler"] == last[1]["scheduler"]


def test_resumed_run_with_unlabelled_data_is_bit_identical(tmp_path):
    options = {"trainer": "EngineLinearXU", "DATASET__ALL_AS_UNLABELED": True, "TRAIN__COUNT_ITER": "train_u"}
    whole = engine_trainer(tmp_path, tmp_path / "whole", **options)
    whole.train()
    assert whole.num_batches == len(whole.train_loader_u) == 4 > len(whole.train_loader_x)
    train_until(engine_trainer(tmp_path, tmp_path / "killed", **options), 4)
    resumed = engine_trainer(tmp_path, tmp_path / "killed", **options)
    resumed.train()
    assert same(weights(whole), weights(resumed))


def test_resume_folder_without_a_checkpoint_is_refused(tmp_path):
    trainer = engine_trainer(tmp_path, tmp_path / "out", RESUME=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nothing to resume in .*nowhere: expected linear/checkpoint"):
        trainer.train()


def test_resuming_with_other_settings_is_refused(tmp_path):
    train_until(engine_trainer(tmp_path, tmp_path / "out"), 3)
    other = engine_trainer(tmp_path, tmp_path / "out", OPTIM__LR=0.5, DATASET__NUM_SHOTS=1)
    with pytest.raises(UserError, match="OPTIM.LR was 0.01 and is 0.5") as error:
        other.train()
    assert "DATASET.NUM_SHOTS was -1 and is 1" in str(error.value)
    # where it runs and what it prints may change
    engine_trainer(tmp_path, tmp_path / "out", TRAIN__PRINT_FREQ=1, TEST__NO_TEST=True).train()


def test_trainer_names_further_settings_that_may_change_on_resume(tmp_path):
    train_until(engine_trainer(tmp_path, tmp_path / "out"), 3)
    changes = {"OPTIM__RMSPROP_ALPHA": 0.5, "OPTIM__ADAM_BETA1": 0.5}  # of other optimizers
    with pytest.raises(UserError, match="OPTIM.RMSPROP_ALPHA was 0.99 and is 0.5; OPTIM.ADAM_BETA1 was 0.9 and is 0.5"):
        engine_trainer(tmp_path, tmp_path / "out", **changes).train()
    resumed = engine_trainer(tmp_path, tmp_path / "out", **changes)
    resumed.settings_without_effect = ("OPTIM.RMSPROP_ALPHA",)
    with pytest.raises(UserError, match="settings: OPTIM.ADAM_BETA1 was 0.9 and is 0.5. Use"):
        resumed.train()
    resumed.same_setting = lambda key, a, b: a == b or {key, a, b} == {"OPTIM.ADAM_BETA1", 0.9, 0.5}
    resumed.train()
    run = torch.load(tmp_path / "out/linear/model.pth.tar-6", weights_only=True)["run"]
    assert run["config"]["OPTIM.ADAM_BETA1"] == 0.5 and "OPTIM.RMSPROP_ALPHA" not in run["config"]


def test_engine_ignores_the_settings_that_the_same_run_rule_ignores():
    """Any trainer, also a third-party one, may be resumed after a change of these settings of Dassl."""
    settings = flatten(to_dict(get_cfg_default()))
    ignored = settings.keys() - training_settings(get_cfg_default()).keys()
    assert len(settings.keys() & identity.WITHOUT_EFFECT) > 4 and settings.keys() & identity.WITHOUT_EFFECT <= ignored


def test_damaged_checkpoint_is_refused(tmp_path):
    train_until(engine_trainer(tmp_path, tmp_path / "out"), 5)
    path = tmp_path / "out" / "linear" / "model.pth.tar-4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="model.pth.tar-4 is not a readable checkpoint"):
        engine_trainer(tmp_path, tmp_path / "out").train()


def test_run_resumes_from_the_newest_epoch_saved_for_all_models(tmp_path):
    """A run may be killed after it saved one model and before it saved the next."""

    def two_models(folder):
        trainer = engine_trainer(tmp_path, folder)
        trainer.register_model("second", torch.nn.Linear(2, 2))
        return trainer

    two_models(tmp_path / "out").train()
    (tmp_path / "out" / "second" / "model.pth.tar-6").unlink()
    (tmp_path / "out" / "second" / "checkpoint").write_text("model.pth.tar-4\n")
    again = two_models(tmp_path / "out")
    assert again.resume_model_if_exist(str(tmp_path / "out")) == 4
    for k in (2, 4):
        (tmp_path / "out" / "second" / f"model.pth.tar-{k}").unlink()
    with pytest.raises(UserError, match="no epoch in"):
        two_models(tmp_path / "out").resume_model_if_exist(str(tmp_path / "out"))


def test_model_is_loaded_from_a_run(tmp_path, capsys):
    trained = engine_trainer(tmp_path, tmp_path / "out")
    trained.train()
    fresh = engine_trainer(tmp_path, tmp_path / "other")
    capsys.readouterr()
    fresh.load_model(str(tmp_path / "out"), epoch=6)
    path = tmp_path / "out" / "linear" / "model.pth.tar-6"
    assert capsys.readouterr().out == f"Load {path} to linear (epoch=6, val_result=none)\n"
    assert same(weights(trained), weights(fresh))
    fresh.load_model("")
    assert "load_model() is skipped" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="No model at .*model-best"):
        fresh.load_model(str(tmp_path / "out"))
    fresh.model[2] = torch.nn.Linear(768, 9)
    with pytest.raises(UserError, match="does not fit this model.*size mismatch"):
        fresh.load_model(str(tmp_path / "out"), epoch=6)


def test_infinite_loss_stops_training(tmp_path):
    trainer = engine_trainer(tmp_path, tmp_path / "out", OPTIM__LR=1e38)
    with pytest.raises(FloatingPointError, match=r"Loss is infinite or NaN! epoch \d, batch \d"):
        trainer.train()


def test_models_are_registered_once(tmp_path):
    trainer = engine_trainer(tmp_path, tmp_path / "out")
    with pytest.raises(AssertionError, match="duplicate"):
        trainer.register_model("linear")
    with pytest.raises(AssertionError, match="no model is registered as 'x'"):
        trainer.get_model_names("x")
    with pytest.raises(AttributeError, match="super"):
        type(trainer).__new__(type(trainer)).register_model("x")


def test_evaluation_draws_one_seed_and_writes_nothing(tmp_path):
    trainer = engine_trainer(tmp_path, tmp_path / "out")
    before = torch.get_rng_state()
    first = trainer.test()
    torch.set_rng_state(before)
    assert trainer.test() == first
    torch.set_rng_state(before)
    torch.empty((), dtype=torch.int64).random_()  # the seed that a DataLoader draws for its workers
    expected = torch.rand(3)
    torch.set_rng_state(before)
    trainer.test()
    assert torch.equal(torch.rand(3), expected)
    assert not (tmp_path / "out").exists()


def test_training_without_tensorboard(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    engine_trainer(tmp_path, tmp_path / "out", OPTIM__MAX_EPOCH=1).train()
    assert "tensorboard is not installed" in capsys.readouterr().out


def test_unknown_names_get_a_suggestion(tmp_path):
    pictures(tmp_path)
    with pytest.raises(UserError, match=r"got \[EngineLinea\] \(do you mean \[EngineLinear\]"):
        engine_trainer(tmp_path, tmp_path, trainer="EngineLinea")
    with pytest.raises(ValueError, match=r"do you mean \[EnginePictures\]"):
        engine_trainer(tmp_path, tmp_path, DATASET__NAME="EnginePicture")
    cfg = engine_cfg(tmp_path, tmp_path, INPUT__TRANSFORMS=("random_flop",))
    from dassl.data import DataManager

    with pytest.raises(UserError, match="'random_flop'. Did you mean 'random_flip'"):
        DataManager(cfg)
