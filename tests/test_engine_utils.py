"""The bundled engine's utilities: checkpoints read without running them, schedules, logging, files."""

import collections
import os
import pickle
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from qprompt.engine import activate
from qprompt.errors import UserError

if activate().name != "bundled":
    pytest.skip("tests of the bundled engine", allow_module_level=True)

from dassl.config import get_cfg_default  # noqa: E402
from dassl.engine.run_state import random_states, restore_random_states  # noqa: E402
from dassl.evaluation import build_evaluator  # noqa: E402
from dassl.metrics import compute_accuracy, compute_distance_matrix  # noqa: E402
from dassl.optim import build_lr_scheduler, build_optimizer  # noqa: E402
from dassl.utils import (  # noqa: E402
    Registry,
    check_isfile,
    collect_env_info,
    count_num_param,
    init_network_weights,
    listdir_nohidden,
    load_checkpoint,
    load_pretrained_weights,
    open_all_layers,
    open_specified_layers,
    read_json,
    resume_from_checkpoint,
    save_checkpoint,
    set_random_seed,
    setup_logger,
    write_json,
)
from engine_probe import SCHEDULES, config_with  # noqa: E402


class Payload:
    """What a hostile file would do."""

    def __reduce__(self):
        return os.system, ("echo run > /nonexistent/should-never-be",)


class LiveScheduler:
    """A live object with the attributes of the scheduler that real Dassl leaves in its checkpoints."""

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
def test_resumed_schedule_goes_on(tmp_path, schedule, capsys):
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


def test_checkpoint_with_a_live_scheduler(tmp_path):
    """As real Dassl writes it: read without running it, and the schedule goes on."""
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


def test_nothing_in_a_checkpoint_is_run(tmp_path, monkeypatch):
    path = tmp_path / "hostile.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "x": Payload(), "y": np.float64(3), "z": slice(1)}, path)
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("ran code from a checkpoint"))
    content = load_checkpoint(str(path))
    assert torch.equal(content["state_dict"]["w"], torch.ones(2))
    assert f"{content['x']:.1f}".endswith("not loaded>")


def test_unreadable_checkpoints(tmp_path):
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
            raise UserError("not a readable checkpoint")  # the damage may be where it does not matter
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="File is not found"):
        load_checkpoint(str(tmp_path / "missing"))
    with pytest.raises(UserError, match='"checkpoint" is missing'):
        resume_from_checkpoint(str(tmp_path), nn.Linear(1, 1))
    with pytest.raises(ValueError, match="None"):
        load_checkpoint(None)


def test_saved_values_are_plain_and_views_small(tmp_path, capsys):
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


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
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


def test_random_states(tmp_path):
    import random

    def draw():
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()  # noqa: NPY002

    set_random_seed(9)
    draw()
    torch.save(random_states(), tmp_path / "states")
    expected = [draw() for _ in range(3)]
    restore_random_states(torch.load(tmp_path / "states", weights_only=True))
    assert [draw() for _ in range(3)] == expected


def test_pretrained_weights(tmp_path, capsys):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    weights = {"module.weight": source.weight, "bias": torch.ones(5), "other": torch.ones(1)}
    torch.save({"state_dict": weights}, tmp_path / "weights")
    load_pretrained_weights(target, str(tmp_path / "weights"))
    assert torch.equal(target.weight, source.weight)
    assert "discarded due to unmatched keys or size: ['bias', 'other']" in capsys.readouterr().out
    torch.save({"ctx": torch.ones(5)}, tmp_path / "weights")
    with pytest.raises(UserError, match=r"check the key names manually.*it has \['ctx'\], the model has \['weight'"):
        load_pretrained_weights(target, str(tmp_path / "weights"))


def test_layers():
    model = nn.Sequential(collections.OrderedDict(body=nn.Linear(2, 2), head=nn.Linear(2, 1)))
    open_specified_layers(model, "head")
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert not model.body.training and model.head.training
    open_all_layers(model)
    assert all(p.requires_grad for p in model.parameters()) and model.body.training
    with pytest.raises(AssertionError, match="tail is not an attribute"):
        open_specified_layers(model, ["tail"])
    assert count_num_param(model) == count_num_param(params=model.parameters()) == 9
    assert count_num_param(params=[{"params": model.body.weight}]) == 4
    with pytest.raises(ValueError, match="at least one"):
        count_num_param()
    for kind in ("normal", "xavier", "kaiming", "orthogonal"):
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.InstanceNorm2d(2), nn.Linear(2, 2))
        net[1].weight.data.fill_(5)
        init_network_weights(net, kind)
        assert not net[0].bias.any() and torch.equal(net[1].weight, torch.ones(2))
    with pytest.raises(ValueError, match="init_type must be one of"):
        init_network_weights(net, "uniform")


def test_optimizers_and_schedulers_refuse_what_they_do_not_know():
    cfg = get_cfg_default().OPTIM
    cfg.NAME = "lion"
    with pytest.raises(ValueError, match="optim must be one of .* but got lion"):
        build_optimizer(nn.Linear(1, 1), cfg)
    cfg.NAME, cfg.LR_SCHEDULER = "radam", "exponential"
    optimizer = build_optimizer(nn.Linear(1, 1), cfg)
    with pytest.raises(ValueError, match="scheduler must be one of"):
        build_lr_scheduler(optimizer, cfg)
    cfg.LR_SCHEDULER, cfg.STEPSIZE = "multi_step", 3
    with pytest.raises(TypeError, match="must be a list"):
        build_lr_scheduler(optimizer, cfg)
    cfg.LR_SCHEDULER, cfg.STEPSIZE = "single_step", (2.5,)
    with pytest.raises(TypeError, match="must be an integer"):
        build_lr_scheduler(optimizer, cfg)
    cfg.LR_SCHEDULER, cfg.WARMUP_EPOCH, cfg.WARMUP_TYPE = "cosine", 2, "cubic"
    with pytest.raises(ValueError, match="constant or linear"):
        build_lr_scheduler(optimizer, cfg)


def test_staged_rates():
    cfg = get_cfg_default().OPTIM
    cfg.STAGED_LR, cfg.NEW_LAYERS, cfg.LR = True, ("head",), 1.0
    model = nn.Sequential(collections.OrderedDict(body=nn.Linear(2, 2), head=nn.Linear(2, 1)))
    groups = build_optimizer(model, cfg).param_groups
    assert [(len(group["params"]), group["lr"]) for group in groups] == [(2, 0.1), (2, 1.0)]
    with pytest.raises(TypeError, match="nn.Module"):
        build_optimizer(list(model.parameters()), cfg)
    with pytest.warns(UserWarning, match="staged_lr will be ignored"):
        build_optimizer(None, cfg, param_groups=model.parameters())


def test_logger(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    setup_logger(None)
    setup_logger(str(tmp_path / "run"))
    print("first")
    assert (tmp_path / "run" / "log.txt").read_text() == "first\n"  # at once: a killed run has its lines
    setup_logger(str(tmp_path / "run"))
    print("second")
    sys.stdout.flush()
    logs = sorted((tmp_path / "run").iterdir())
    assert [log.read_text() for log in logs] == ["first\n", "second\n"]
    assert logs[1].name.startswith(f"log.txt-{time.strftime('%Y')}")
    assert sys.stdout.isatty() is False and sys.stdout.encoding
    sys.stdout.close()
    print("third")
    assert logs[1].read_text() == "second\n"
    assert capsys.readouterr().out == "first\nsecond\nthird\n"


def test_files(tmp_path):
    path = tmp_path / "a" / "x.json"
    write_json({"b": [1, 2]}, str(path))
    assert path.read_text() == '{\n    "b": [\n        1,\n        2\n    ]\n}'
    assert read_json(str(path)) == {"b": [1, 2]}
    path.write_text("{")
    with pytest.raises(UserError, match="x.json is not valid JSON"):
        read_json(str(path))
    with pytest.warns(UserWarning, match="No file found"):
        assert check_isfile(str(tmp_path / "none")) is False
    (tmp_path / ".hidden").touch()
    assert listdir_nohidden(str(tmp_path), sort=True) == ["a"]
    assert f"PyTorch version: {torch.__version__}" in collect_env_info()


def test_registry():
    registry = Registry("ANIMAL")

    @registry.register()
    class Cat:
        pass

    registry.register(Cat, force=True)
    assert registry.get("Cat") is Cat and registry.registered_names() == ["Cat"]
    with pytest.raises(KeyError, match='An object named "Cat" was already registered in "ANIMAL" registry'):
        registry.register(Cat)
    with pytest.raises(KeyError, match='"Dog" does not exist in "ANIMAL" registry'):
        registry.get("Dog")


def test_accuracy_by_brute_force():
    logits, labels = torch.randn(40, 6), torch.randint(6, (40,))
    for k, accuracy in zip((1, 3, 6), compute_accuracy((logits, None), labels, topk=(1, 3, 6)), strict=True):
        hits = [label in row.argsort(descending=True)[:k] for row, label in zip(logits, labels, strict=True)]
        assert accuracy.item() == pytest.approx(100 * sum(map(bool, hits)) / 40)
    with pytest.raises(ValueError, match="Unknown distance metric"):
        compute_distance_matrix(logits, logits, "manhattan")


def test_confusion_matrix_and_empty_evaluation(tmp_path, capsys):
    cfg = config_with(TEST__COMPUTE_CMAT=True, OUTPUT_DIR=str(tmp_path))
    evaluator = build_evaluator(cfg)
    with pytest.raises(UserError, match="nothing was evaluated"):
        evaluator.evaluate()
    evaluator.process(torch.eye(4)[[0, 0, 1, 3]], torch.tensor([0, 0, 0, 2]))
    evaluator.evaluate()
    # classes 0, 1, 2, 3 occur; two thirds of class 0 are right, class 2 is taken for 3
    expected = torch.tensor([[2 / 3, 1 / 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.float64)
    assert torch.equal(torch.load(tmp_path / "cmat.pt", weights_only=True), expected)
    capsys.readouterr()
