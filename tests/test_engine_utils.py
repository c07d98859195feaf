"""The bundled engine's optimizers, metrics, logging and helpers."""

import collections
import sys
import time

import pytest
import torch
from torch import nn

from qprompt.engine import activate
from qprompt.errors import UserError

if activate().name != "bundled":
    pytest.skip("tests of the bundled engine", allow_module_level=True)

from dassl.config import get_cfg_default  # noqa: E402
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
    open_all_layers,
    open_specified_layers,
    read_json,
    setup_logger,
    write_json,
)
from engine_probe import config_with  # noqa: E402


def test_layers_are_opened_counted_and_initialized():
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


def test_unknown_optimizers_and_schedules_are_errors():
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


def test_staged_learning_rates():
    cfg = get_cfg_default().OPTIM
    cfg.STAGED_LR, cfg.NEW_LAYERS, cfg.LR = True, ("head",), 1.0
    model = nn.Sequential(collections.OrderedDict(body=nn.Linear(2, 2), head=nn.Linear(2, 1)))
    groups = build_optimizer(model, cfg).param_groups
    assert [(len(group["params"]), group["lr"]) for group in groups] == [(2, 0.1), (2, 1.0)]
    with pytest.raises(TypeError, match="nn.Module"):
        build_optimizer(list(model.parameters()), cfg)
    with pytest.warns(UserWarning, match="staged_lr will be ignored"):
        build_optimizer(None, cfg, param_groups=model.parameters())


def test_logger_writes_console_and_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    setup_logger(None)
    setup_logger(str(tmp_path / "run"))
    print("first")
    assert (tmp_path / "run" / "log.txt").read_text() == "first\n"  # immediately, for a run that is killed
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


def test_file_helpers(tmp_path):
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


def test_registry_refuses_duplicates():
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


def test_accuracy_equals_brute_force():
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
    # classes 0, 1, 2, 3 occur; two thirds of class 0 are correct, class 2 is predicted as 3
    expected = torch.tensor([[2 / 3, 1 / 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.float64)
    assert torch.equal(torch.load(tmp_path / "cmat.pt", weights_only=True), expected)
    capsys.readouterr()
