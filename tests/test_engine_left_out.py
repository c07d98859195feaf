"""Parts of Dassl for other fields: they can be imported and derived from, and name real Dassl when they are used."""

import importlib
import importlib.util
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qprompt.errors import UserError
from tests import dassl_surface

pytestmark = pytest.mark.bundled_only


@pytest.fixture(scope="module")
def modules():
    return importlib.import_module("dassl._left_out").MODULES


def test_every_name_can_be_imported_and_refuses_its_use(modules):
    for module, names in modules.items():
        for name in names:
            thing = getattr(importlib.import_module(module), name)
            with pytest.raises(UserError, match=rf"{module}\.{name} is not in the bundled engine; real Dassl has it"):
                thing()
            package = importlib.import_module(module.rpartition(".")[0])
            assert hasattr(package, name)
        with pytest.raises(AttributeError):
            importlib.import_module(module).no_such_name  # noqa: B018


def test_names_are_those_of_a_checkout(monkeypatch):
    path = os.environ.get("QPROMPT_DASSL")
    if not path:
        pytest.skip("set QPROMPT_DASSL to a checkout of Dassl to run this")
    left_out = dassl_surface.LEFT_OUT
    monkeypatch.setattr(dassl_surface, "LEFT_OUT", ("nothing",))
    for module, names in dassl_surface.surface(Path(path) / "dassl").items():
        ours = importlib.import_module(module) if module.startswith(left_out) else None
        own = [name for name, arguments in names.items() if arguments is not None and name[0] != "_"]
        assert [name for name in own if ours is not None and not hasattr(ours, name)] == [], module


def test_trainers_and_data_sets_may_derive_from_them():
    from dassl.data.datasets.dg import DigitsDG
    from dassl.engine import TRAINER_REGISTRY, TrainerXU
    from dassl.engine.dg.vanilla import Vanilla

    from qprompt.dropin.registry import quantized_class

    class Mine(Vanilla):
        def __init__(self, cfg):
            super().__init__(cfg)

    TRAINER_REGISTRY.register(Mine)
    try:
        assert issubclass(Mine, TrainerXU)
        for use in (Mine, quantized_class(Mine), type("Digits", (DigitsDG,), {})):
            with pytest.raises(UserError, match="real Dassl has it"):
                use(None)
    finally:
        del TRAINER_REGISTRY._obj_map["Mine"]


def test_registered_networks_are_built_and_those_of_dassl_refused():
    from dassl.config import get_cfg_default
    from dassl.engine import SimpleNet
    from dassl.engine.trainer import build_backbone, build_head
    from dassl.modeling import BACKBONE_REGISTRY, HEAD_REGISTRY, Backbone, build_network

    class Flat(Backbone):
        def __init__(self, pretrained):
            super().__init__()
            assert self.out_features is None
            self._out_features = 12 if pretrained else 0

        def forward(self, x):
            return x.flatten(1)

    BACKBONE_REGISTRY.register(Flat)
    try:
        cfg = get_cfg_default()
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.HEAD.NAME, cfg.MODEL.HEAD.HIDDEN_LAYERS = "Flat", "mlp", (8, 5)
        cfg.MODEL.HEAD.DROPOUT = 0.1
        net = SimpleNet(cfg, cfg.MODEL, 3).eval()
        logits, features = net(torch.rand(2, 3, 2, 2), return_feature=True)
        assert (logits.shape, features.shape, net.fdim) == ((2, 3), (2, 5), 5)
        kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout] * 2
        assert [type(layer) for layer in net.head.mlp] == kinds
        cfg.MODEL.HEAD.NAME = ""
        assert SimpleNet(cfg, cfg.MODEL, 0)(torch.rand(2, 3, 2, 2)).shape == (2, 12)
    finally:
        del BACKBONE_REGISTRY._obj_map["Flat"]
    assert HEAD_REGISTRY.registered_names() == ["mlp"]
    with pytest.raises(UserError, match="backbone resnet18 is not in the bundled engine"):
        build_backbone("resnet18", pretrained=True)
    with pytest.raises(UserError, match="network fcn_3x32_gctx is not in the bundled engine"):
        build_network("fcn_3x32_gctx")
    with pytest.raises(UserError, match="mlq"):
        build_head("mlq")


def test_operations():
    from dassl.modeling.ops import ReverseGrad, cross_entropy, mixup
    from dassl.modeling.ops import utils as u

    p, label, x = torch.tensor([[0.2, 0.8], [0.5, 0.5]]), torch.tensor([1, 0]), torch.arange(6.0).view(2, 3)
    torch.testing.assert_close(u.sharpen_prob(p), torch.tensor([[0.04 / 0.68, 0.64 / 0.68], [0.5, 0.5]]))
    assert torch.equal(u.create_onehot(label, 3), torch.tensor([[0.0, 1, 0], [1, 0, 0]]))
    for order in (u.reverse_index, u.shuffle_index):
        data, labels = order(x, label)
        assert all(torch.equal(row, x[label == own][0]) for row, own in zip(data, labels, strict=True))
    assert [u.linear_rampup(step, 10) for step in (-1, 5, 20)] == [0.0, 0.5, 1.0]
    assert u.sigmoid_rampup(5, 10) == pytest.approx(2.718281828**-1.25)
    mean, model = nn.Linear(1, 1), nn.Linear(1, 1)
    expected = 0.9 * mean.weight.detach() + 0.1 * model.weight.detach()
    u.ema_model_update(model, mean, 0.9)
    torch.testing.assert_close(mean.weight.detach(), expected)
    for reduction in ("mean", "sum", "none"):
        smooth = F.cross_entropy(x, label, label_smoothing=0.1, reduction=reduction)
        torch.testing.assert_close(cross_entropy(x, label, 0.1, reduction), smooth)
    images, labels = torch.rand(5, 3, 2, 2), F.one_hot(torch.arange(5), 5).float()
    mixed, of_labels = mixup(images, torch.zeros_like(images), labels, torch.zeros_like(labels), 0.5, True)
    shares = of_labels.sum(1)
    assert (shares >= 0.5).all() and len(shares.unique()) == 5
    torch.testing.assert_close(mixed, shares.view(5, 1, 1, 1) * images)
    x.requires_grad_()
    y = ReverseGrad()(x, 0.5)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, x) and torch.equal(gradient, torch.full_like(x, -0.5))


def test_operations_equal_those_of_a_checkout():
    path = os.environ.get("QPROMPT_DASSL")
    if not path:
        pytest.skip("set QPROMPT_DASSL to a checkout of Dassl to run this")
    from dassl.modeling.ops import cross_entropy, mixup
    from dassl.modeling.ops import utils as ours

    def theirs(name):
        spec = importlib.util.spec_from_file_location(f"of_dassl_{name}", f"{path}/dassl/modeling/ops/{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    utils, labels, x = theirs("utils"), torch.tensor([2, 0, 1]), torch.rand(3, 4)
    assert torch.equal(ours.sharpen_prob(x, 3), utils.sharpen_prob(x, 3))
    assert torch.equal(ours.create_onehot(labels, 4), utils.create_onehot(labels, 4))
    for step in range(-1, 12):
        assert ours.sigmoid_rampup(step, 10) == pytest.approx(utils.sigmoid_rampup(step, 10), rel=1e-14)
        assert ours.linear_rampup(step, 10) == utils.linear_rampup(step, 10)
    found = []
    for function in (mixup, theirs("mixup").mixup):
        torch.manual_seed(0)
        images, vectors = torch.rand(3, 3, 2, 2), torch.rand(3, 4)
        found.append(function(images, images.flip(0), vectors, vectors.flip(0), 0.7, True))
    assert all(map(torch.allclose, *found))
    for reduction in ("mean", "sum", "none"):
        expected = theirs("cross_entropy").cross_entropy(x, labels, 0.1, reduction)
        torch.testing.assert_close(cross_entropy(x, labels, 0.1, reduction), expected)
