"""The control experiment of arXiv 2407.10704, section 3.1: Gaussian noise on the prompt instead of quantization.

No levels, nothing to pack: it shows what noise of a given strength does, beside `qprompt.quantization.api`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qprompt.errors import UserError
from qprompt.quantization.parameters import match_parameters, owner_of, parametrizations, remove_parametrization


class GaussianNoise(nn.Module):
    """W -> W + sigma * e in training, e standard normal; W in evaluation. The gradient of W is that of the result.

    e is redrawn by `renew_` and fixed in between, so all reads within a step see the same weights. It depends on
    (seed, step) only, not on the device or on other random numbers, and a resumed run draws what an uninterrupted one
    does.
    """

    noise: Tensor

    def __init__(self, weight: Tensor, sigma: float, relative: bool, seed: int) -> None:
        super().__init__()
        self.sigma, self.relative, self.seed, self.step = sigma, relative, seed, 0
        self.register_buffer("noise", torch.empty_like(weight.detach()), persistent=False)
        self.draw()

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight
        strength = self.sigma * (weight.detach().float().std(unbiased=False) if self.relative else 1.0)
        return weight + (self.noise * strength).to(weight.dtype)

    def draw(self) -> None:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.step) % 2**63)
        self.noise.copy_(torch.randn(self.noise.shape, generator=generator))

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.seed, self.step])

    def set_extra_state(self, state: Tensor) -> None:
        self.seed, self.step = state.tolist()
        self.draw()


@torch.no_grad()
def add_noise_(
    module: nn.Module, names: Iterable[str] | str, sigma: float, relative: bool = False, seed: int = 0
) -> list[str]:
    """Add Gaussian noise to parameters of `module` while it trains, in place; return their names.

    `sigma` is absolute (the paper: 0.01 helps, 0.001 does nothing, 0.1 destroys), or with `relative` a multiple of
    the standard deviation of each tensor. Raises UserError for names that match nothing and for a negative sigma.
    """
    if not 0 <= sigma < float("inf"):
        raise UserError(f"sigma={sigma!r}: expected a number of at least 0")
    chosen = match_parameters(module, names)
    for number, name in enumerate(chosen):
        owner, leaf = owner_of(module, name)
        weight = getattr(owner, leaf)
        noise = GaussianNoise(weight, sigma, relative, seed * 10_007 + number)
        parametrize.register_parametrization(owner, leaf, noise.train(owner.training))
    return chosen


@torch.no_grad()
def renew_(module: nn.Module) -> None:
    """Once a step, before the forward pass: draw the noise of the next step."""
    for noise, _ in parametrizations(module, GaussianNoise).values():
        noise.step += 1
        noise.draw()


@torch.no_grad()
def remove_noise_(module: nn.Module) -> list[str]:
    """Plain parameters again, without the noise, in place; return their names."""
    names = list(parametrizations(module, GaussianNoise))
    for name in names:
        remove_parametrization(module, name, keep_result=False)
    return names
