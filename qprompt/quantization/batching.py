"""From weights to indices, levels and values: the arithmetic of `FakeQuantize`, for any number of groups at once."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from qprompt.quantization.codebook import Table, assign, lookup

if TYPE_CHECKING:
    from qprompt.quantization.fake_quantize import FakeQuantize

Pair: TypeAlias = "tuple[FakeQuantize, nn.Parameter]"


class Coded(NamedTuple):
    """Weights as they are stored, G groups of L entries and k levels each; and what they were made from."""

    indices: Tensor  # (G, L), an integer type
    levels: Tensor  # (G, k) float16
    values: Tensor  # W_q (G, L) in the type of W
    normalized: Tensor  # W_hat (G, L) float32
    sigma: Tensor  # (G, 1)

    def split(self, parts: int) -> list["Coded"]:
        """Equal parts of it."""
        if parts == 1:
            return [self]
        return [Coded(*part) for part in zip(*(tensor.chunk(parts) for tensor in self), strict=True)]


Batch: TypeAlias = tuple[list[Pair], Coded]  # tensors that are alike, and the groups of all in their order


def normalize(x: Tensor, on: bool, large: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """W_hat (G, L) of x (G, L) float32, mu and sigma (G, 1); without normalization x, 0 and 1.

    A constant's W_hat is 0. `large`: in passes that are ten times faster on a CPU than torch.std from thousands of
    entries on, and slower below.
    """
    if not on:
        return x, x.new_zeros(len(x), 1), x.new_ones(len(x), 1)
    # Over all N entries, not N - 1.
    if large:
        mu = x.mean(-1, keepdim=True)
        centered = x - mu
        sigma = centered.square().mean(-1, keepdim=True).sqrt_()
    else:
        sigma, mu = torch.std_mean(x, -1, correction=0, keepdim=True)
        centered = x - mu
    sigma.clamp_(min=1e-30)
    return centered.div_(sigma), mu, sigma


def encode(
    normalized: Tensor,
    mu: Tensor,
    sigma: Tensor,
    codebook: Tensor,
    mids: Tensor,
    dtype: torch.dtype,
    table: Table | None,
) -> Coded:
    """What `normalize` gave, with the levels (G, k) of W_hat and their boundaries `mids` (G, k - 1)."""
    indices = assign(normalized, mids, table)
    levels = torch.addcmul(mu, sigma, codebook).to(torch.float16)  # not .half(), which --fp32 makes float32
    return Coded(indices, levels, lookup(levels.to(dtype), indices), normalized, sigma)


def divergence(counts: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """KL(P_now || P_ref) in nats of each group: counts (G, k) on the levels now, shares (G, k) at the last fit -> (G,).

    P is over the indices, P_now by the current levels. The paper does not say what an empty level counts: here every
    level gets half an entry more than it has, in both, so the divergence is always finite.
    """
    n, k = counts.sum(-1, keepdims=True), counts.shape[-1]
    now, before = (counts + 0.5) / (n + 0.5 * k), (reference * n + 0.5) / (n + 0.5 * k)
    return np.sum(now * np.log(now / before), axis=-1)


def encode_together(pairs: Iterable[Pair]) -> list[Batch]:
    """Encode tensors, those that are alike in one pass.

    On a GPU a pass costs its launches, so all tensors of one size are one batch. On a CPU it costs its arithmetic, and
    large tensors have tables of their own: only small ones are.
    """
    alike: dict[tuple, list[Pair]] = {}
    for fake, weight in pairs:
        alone = fake if fake.large and weight.device.type == "cpu" else None
        rule = fake.config.normalize, fake.config.levels, fake.groups, fake.numel
        alike.setdefault((*rule, weight.dtype, weight.device, alone), []).append((fake, weight))
    return [(batch, _encode(batch)) for batch in alike.values()]


def _encode(batch: list[Pair]) -> Coded:
    first, weight = batch[0]
    if len(batch) == 1:
        return first.encode(weight)
    x = torch.cat([weight.detach().reshape(fake.groups, -1) for fake, weight in batch]).float()
    codebook = torch.cat([fake.normalized_levels() for fake, _ in batch])
    mids = torch.cat([fake.boundaries() for fake, _ in batch])
    return encode(*normalize(x, first.config.normalize, first.large), codebook, mids, weight.dtype, None)
