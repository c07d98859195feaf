"""The bundled engine has the public names of Dassl 0.6.3, with arguments in the same order."""

import importlib
import inspect
import json
import os
from pathlib import Path

import pytest
import torch

from tests.dassl_surface import GOLDEN, surface

pytestmark = pytest.mark.bundled_only
SURFACE = json.loads(GOLDEN.read_text(encoding="utf-8"))
# Names of Dassl's modules without a meaning of their own.
WITHOUT_USE = {
    "__version__",
    "__author__",
    "__homepage__",
    "__all__",
    "__description__",
}


def test_stored_names_are_those_of_the_checkout():
    path = os.environ.get("QPROMPT_DASSL")
    if not path:
        pytest.skip("set QPROMPT_DASSL to a checkout of Dassl to run this")
    assert surface(Path(path) / "dassl") == SURFACE


@pytest.mark.parametrize("module", SURFACE)
def test_every_public_name_is_there(module):
    ours = importlib.import_module(module)
    missing = [name for name in SURFACE[module] if name not in WITHOUT_USE and not hasattr(ours, name)]
    assert not missing
    for name, expected in SURFACE[module].items():
        if isinstance(expected, list):
            assert _begins(getattr(ours, name), expected), name
        for method, arguments in expected.items() if isinstance(expected, dict) else ():
            assert _begins(getattr(getattr(ours, name), method), arguments), f"{name}.{method}"


def _begins(function, arguments):
    """Return whether calls with these arguments, by position and by name, fit a function."""
    if isinstance(function, property):
        return True
    parameters = inspect.signature(function).parameters.values()
    taken = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    arguments = [name for name in arguments if name != "_"]  # not used
    in_order = [name for name in taken if name in arguments] == [name for name in arguments if name in taken]
    return in_order and (set(arguments) <= set(taken) or any(p.kind is p.VAR_KEYWORD for p in parameters))


def test_radam_equals_that_of_torch():
    from dassl.optim.radam import AdamW, RAdam

    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 6)) for _ in range(2)]
    ours = RAdam([weights[0]], lr=0.1, weight_decay=0.01)
    theirs = torch.optim.RAdam([weights[1]], lr=0.1, weight_decay=0.01, decoupled_weight_decay=True)
    for _ in range(20):
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(*weights)
    still = torch.nn.Parameter(torch.ones(2))
    waiting = RAdam([still], degenerated_to_sgd=False)
    still.sum().backward()
    waiting.step()
    assert torch.equal(still, torch.ones(2))
    slow, usual = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    for weight, warmup in ((slow, 10), (usual, 0)):
        optimizer = AdamW([weight], lr=0.1, warmup=warmup)
        weight.sum().backward()
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == 0.1
    torch.testing.assert_close(1 - slow, (1 - usual) / 10)


def test_rates_and_batch_norms():
    from dassl.utils import adjust_learning_rate, set_bn_to_eval

    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1)
    adjust_learning_rate(optimizer, 0.1, 45, stepsize=20)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    adjust_learning_rate(optimizer, 0.1, 25, linear_decay=True, final_lr=0.02, max_epoch=100)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.08)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).train()
    model.apply(set_bn_to_eval)
    assert [layer.training for layer in model] == [True, False]
