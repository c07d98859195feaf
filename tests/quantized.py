"""Quantized modules for the tests of quantization."""

import torch
import torch.nn.functional as F
from torch import nn

from qprompt.quantization.api import quantize_, quantized_parameters, refresh_


class Learner(nn.Module):
    """Everything that a prompt learner may hold."""

    def __init__(self, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.ctx = nn.Parameter(torch.randn(4, 64, generator=g) * 0.02 + 0.01)
        self.deep = nn.ParameterList(nn.Parameter(torch.randn(2, 64, generator=g)) for _ in range(2))
        self.proj = nn.Linear(64, 8)
        with torch.no_grad():
            for parameter in self.proj.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=g))

    def forward(self):
        context = torch.cat([self.ctx, *self.deep])  # ctx is read twice, as in MaPLe
        return self.proj(context).sum(0) + self.ctx.mean() * context.mean()


NAMES = ["ctx", "deep.*", "proj.weight"]


def one(weight, **fields):
    """A module with one quantized tensor, its parametrization and its full-precision parameter."""
    module = nn.Module()
    module.ctx = nn.Parameter(weight)
    quantize_(module, names="ctx", **fields)
    return module, *quantized_parameters(module)["ctx"]


def weights(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02 + 0.01


def train(module, steps, lr=0.01, start=0):
    optim = torch.optim.SGD(module.parameters(), lr=lr)
    for step in range(start, start + steps):
        refresh_(module)
        target = torch.linspace(-1, 1, 8) * (step % 7)
        optim.zero_grad()
        F.mse_loss(module(), target).backward()
        optim.step()
