"""An optimizer step that may be taken back equals GradScaler's step, which waits to know whether to take it."""

import pytest
import torch
from torch import nn

from qprompt.training.tentative_step import TentativeStep, read_together

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True),
    "radam": lambda p: torch.optim.RAdam(p, 0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.5),
}


def train(name, overflows, step):
    torch.manual_seed(0)
    module = nn.Linear(5, 3)
    module.unused = nn.Parameter(torch.ones(2))  # no gradient, hence no state
    optimizer, scaler = OPTIMIZERS[name](module.parameters()), torch.amp.GradScaler("cpu", init_scale=2.0**14)
    for number, overflow in enumerate(overflows):
        x = torch.full((4, 5), 0.1 * number + 0.1)
        optimizer.zero_grad()
        scaler.scale(module(x).square().mean()).backward()
        if overflow:
            module.weight.grad[1, 2] = overflow
        step(scaler, optimizer, bool(overflow))
    return module.state_dict(), optimizer.state_dict(), scaler.state_dict()


def at_once(scaler, optimizer, overflow):
    scaler.step(optimizer)
    scaler.update()


def tentative(scaler, optimizer, overflow):
    step = TentativeStep(scaler, optimizer)
    assert read_together([step.overflow, step.scale])[0].tolist() == [float(overflow)]
    if overflow:
        step.take_back()


@pytest.mark.parametrize("overflows", [(0, 0, 0), (float("inf"), 0, float("nan"), 0), (float("nan"),)], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_the_step_of_grad_scaler(name, overflows):
    (module, optimizer, scaler), (ours, our_optimizer, our_scaler) = (
        train(name, overflows, step) for step in (at_once, tentative)
    )
    assert all(torch.equal(value, ours[key]) for key, value in module.items())
    assert optimizer["param_groups"] == our_optimizer["param_groups"] and scaler == our_scaler
    assert optimizer["state"].keys() == our_optimizer["state"].keys()
    for number, entries in optimizer["state"].items():
        for key, value in entries.items():
            other = our_optimizer["state"][number][key]
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


def test_numbers_of_any_type_are_read_exactly():
    given = [torch.tensor(0.1), torch.tensor([2**40 + 1, 3]), torch.tensor([[1.5]], dtype=torch.bfloat16)]
    loss, counts, half = read_together(given)
    assert loss.tolist() == [given[0].item()] and counts.tolist() == [2**40 + 1, 3] and half.tolist() == [1.5]
