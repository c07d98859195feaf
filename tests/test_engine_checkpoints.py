"""The bundled engine's checkpoints: plain values, atomic, read without executing them; resumed schedules."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from qprompt.engine import activate
from qprompt.errors import UserError

if activate().name != "bundled":
    pytest.skip("tests of the bundled engine", allow_module_level=True)

from dassl.optim import build_lr_scheduler, build_optimizer  # noqa: E402
from dassl.utils import (  # noqa: E402
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
)
from engine_probe import SCHEDULES, config_with  # noqa: E402


class Payload:
    """An object with a pickle that runs a command."""

    def __reduce__(self):
        return os.system, ("echo run > /nonexistent/should-never-be",)


class LiveScheduler:
    """A live object with the attributes of the scheduler in a checkpoint of real Dassl."""

    def __init__(self, **state):
        self.__dict__.update(state)


def scheduled(**settings):
    cfg = config_with(**{f"OPTIM__{key}": value for key, value in {**settings, "NAME": "sgd"}.items()}).OPTIM
    model = nn.Linear(2, 1)
    optimizer = build_optimizer(model, cfg)
    return model, optimizer, build_lr_scheduler(optimizer, cfg), cfg.MAX_EPOCH


def rates(optimizer, scheduler, epochs):
    out = []
    for _ in range(epochs):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_resumed_schedule_continues(tmp_path, schedule, capsys):
    _, optimizer, scheduler, epochs = scheduled(**SCHEDULES[schedule])
    whole = rates(optimizer, scheduler, epochs)
    for cut in range(1, epochs):
        model, optimizer, scheduler, _ = scheduled(**SCHEDULES[schedule])
        first = rates(optimizer, scheduler, cut)
        state = {"state_dict": model.state_dict(), "epoch": cut}
        state |= {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        save_checkpoint(state, str(tmp_path))
        model, optimizer, scheduler, _ = scheduled(**SCHEDULES[schedule])
        assert resume_from_checkpoint(str(tmp_path), model, optimizer, scheduler) == cut
        assert first + rates(optimizer, scheduler, epochs - cut) == pytest.approx(whole, rel=1e-12)
    assert "Loaded scheduler" in capsys.readouterr().out


def test_checkpoint_with_a_live_scheduler_is_resumed(tmp_path):
    """Real Dassl writes such checkpoints. They are read without executing them, and the schedule continues."""
    _, optimizer, scheduler, epochs = scheduled(**SCHEDULES["coop"])
    whole = rates(optimizer, scheduler, epochs)
    model, optimizer, scheduler, _ = scheduled(**SCHEDULES["coop"])
    rates(optimizer, scheduler, 5)
    own = {key: value for key, value in vars(scheduler).items() if key not in ("optimizer", "successor")}
    live = {**own, "successor": LiveScheduler(**vars(scheduler.successor)), "verbose": False}
    state = {"state_dict": model.state_dict(), "epoch": 5, "optimizer": optimizer.state_dict(), "scheduler": live}
    (tmp_path / "checkpoint").write_text("model.pth.tar-5\n")
    torch.save(state, tmp_path / "model.pth.tar-5")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "model.pth.tar-5", weights_only=True)

    content = load_checkpoint(str(tmp_path / "model.pth.tar-5"))
    assert torch.equal(content["state_dict"]["weight"], model.weight)
    successor = content["scheduler"]["successor"]
    assert "not loaded" in repr(successor) and successor.last_epoch == 4
    assert not isinstance(successor.optimizer, torch.optim.Optimizer)
    again, optimizer, scheduler, _ = scheduled(**SCHEDULES["coop"])
    assert resume_from_checkpoint(str(tmp_path), again, optimizer, scheduler) == 5
    assert rates(optimizer, scheduler, epochs - 5) == pytest.approx(whole[5:], rel=1e-12)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    path = tmp_path / "hostile.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "x": Payload(), "y": np.float64(3), "z": slice(1)}, path)
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("ran code from a checkpoint"))
    content = load_checkpoint(str(path))
    assert torch.equal(content["state_dict"]["w"], torch.ones(2))
    assert f"{content['x']:.1f}".endswith("not loaded>")


def test_damaged_checkpoints_are_user_errors(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"a": torch.arange(3000), "b": Payload()}, path)
    whole = path.read_bytes()
    bad = [b"", b"not a checkpoint", whole[:1000], pickle.dumps(Payload()), b"\x80\x02N."]
    rng = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 20):
            damaged[position] = rng.integers(256)
        bad.append(bytes(damaged))
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a readable checkpoint") as error:
            load_checkpoint(str(path))
            raise UserError("not a readable checkpoint")  # the damage may be in bytes that do not matter
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="File is not found"):
        load_checkpoint(str(tmp_path / "missing"))
    with pytest.raises(UserError, match='"checkpoint" is missing'):
        resume_from_checkpoint(str(tmp_path), nn.Linear(1, 1))
    with pytest.raises(ValueError, match="None"):
        load_checkpoint(None)


def test_checkpoint_contains_plain_values_and_only_the_entries_of_a_view(tmp_path, capsys):
    table = torch.randn(1000, 8)
    state = {
        "state_dict": collections.OrderedDict({"module.prefix": table[:2], "odd": nn.Parameter(table[3:4])}),
        "epoch": 1,
        "val_result": np.float64(12.5),
        "more": [np.arange(3), {"live": object()}, (1, "two", None, True), {4, 5}],
    }
    save_checkpoint(state, str(tmp_path / "new" / "folder"), is_best=True)
    folder = tmp_path / "new" / "folder"
    content = torch.load(folder / "model-best.pth.tar", weights_only=True)
    assert list(content["state_dict"]) == ["prefix", "odd"]
    assert torch.equal(content["state_dict"]["prefix"], table[:2])
    assert (folder / "model.pth.tar-1").stat().st_size < 8000
    assert content["val_result"] == 12.5 and content["more"][2] == (1, "two", None, True)
    assert "checkpoint['more'][1]['live'] is a live object and is left out" in capsys.readouterr().out
    assert sorted(os.listdir(folder)) == ["checkpoint", "model-best.pth.tar", "model.pth.tar-1"]


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    state = {"state_dict": {"w": torch.ones(1)}, "epoch": 1}
    save_checkpoint(dict(state), str(tmp_path))
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    def full_disk(content, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(dict(state), str(tmp_path))
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_matching_entries_of_pretrained_weights_are_loaded(tmp_path, capsys):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    weights = {"module.weight": source.weight, "bias": torch.ones(5), "other": torch.ones(1)}
    torch.save({"state_dict": weights}, tmp_path / "weights")
    load_pretrained_weights(target, str(tmp_path / "weights"))
    assert torch.equal(target.weight, source.weight)
    assert "discarded due to unmatched keys or size: ['bias', 'other']" in capsys.readouterr().out
    torch.save({"ctx": torch.ones(5)}, tmp_path / "weights")
    with pytest.raises(UserError, match=r"check the key names manually.*it has \['ctx'\], the model has \['weight'"):
        load_pretrained_weights(target, str(tmp_path / "weights"))
