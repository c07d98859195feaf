"""The control experiment of arXiv 2407.10704, section 3.1: Gaussian noise on the prompt instead of quantization.

It has no levels, so nothing can be packed.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qprompt.errors import UserError
from qprompt.io.transfer import pinned
from qprompt.quantization.parameters import match_parameters, owner_of, parametrizations, remove_parametrization


class GaussianNoise(nn.Module):
    """W -> W + sigma * e in training, with e standard normal; W in evaluation. The gradient passes straight through.

    `renew_` draws e, so all reads within a step see the same weights. e depends on (seed, step) only, not on the device
    or on other random numbers, so a resumed run draws what an uninterrupted run draws.
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
        noise = torch.randn(self.noise.shape, generator=generator)
        self.noise.copy_(pinned(noise, self.noise.device), non_blocking=True)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.seed, self.step])

    def set_extra_state(self, state: Tensor) -> None:
        self.seed, self.step = state.tolist()
        self.draw()


@torch.no_grad()
def add_noise_(
    module: nn.Module, names: Iterable[str] | str, sigma: float, relative: bool = False, seed: int = 0
) -> list[str]:
    """Add Gaussian noise to parameters of `module` during training, in place.

    Args:
        module: any module.
        names: parameter names or glob patterns.
        sigma: standard deviation of the noise (the paper: 0.01 helps, 0.001 does nothing, 0.1 destroys).
        relative: sigma is a multiple of the standard deviation of each tensor.
        seed: of the noise.

    Returns:
        The names of the parameters.

    Raises:
        UserError: a pattern matches nothing, or sigma is negative.
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
    """Draw the noise of the next step. Call it once a step, before the forward pass."""
    for noise, _ in parametrizations(module, GaussianNoise).values():
        noise.step += 1
        noise.draw()


@torch.no_grad()
def remove_noise_(module: nn.Module) -> list[str]:
    """Remove the noise, in place, and return the names of the parameters."""
    names = list(parametrizations(module, GaussianNoise))
    for name in names:
        remove_parametrization(module, name, keep_result=False)
    return names
