"""One pass over all quantized tensors of a step: what makes `refresh_` fast, not what it computes.

On a GPU a pass costs its launches, so all tensors of one size are encoded together. On a CPU it costs its arithmetic,
and large tensors have tables of their own, so only small ones are.
"""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from qprompt.quantization.codebook import count
from qprompt.quantization.encoding import Encoded
from qprompt.quantization.fake_quantize import FakeQuantize, divergence, encode, normalize

Pair: TypeAlias = tuple[FakeQuantize, nn.Parameter]
Batch: TypeAlias = tuple[list[Pair], Encoded]  # tensors that are alike, and the groups of all of them in order


def cache_encodings(pairs: Iterable[Pair]) -> None:
    """Encode the tensors whose next forward pass needs an encoding, and leave it in their caches."""
    _cache(
        encode_together(
            (fake, weight)
            for fake, weight in pairs
            if fake.active and fake.config.levels and weight.requires_grad and not fake.cache.holds(weight)
        )
    )


def measure_divergence(pairs: Iterable[Pair]) -> None:
    """Set `kl` of every tensor, with one transfer to the host in all; their encodings go to their caches."""
    batches = encode_together(pairs)
    if not batches:
        return
    counts = [count(encoded.indices, encoded.levels.shape[1]) for _, encoded in batches]
    # A divergence over k levels is less work on the host than its launches on a device.
    on_host = torch.cat([each.flatten() for each in counts]).cpu().split([each.numel() for each in counts])
    for (pairs_alike, _), own, each in zip(batches, on_host, counts, strict=True):
        reference = np.concatenate([fake.host_reference() for fake, _ in pairs_alike])
        groups = divergence(own.view(each.shape).numpy(), reference)
        for (fake, _), kl in zip(pairs_alike, groups.reshape(len(pairs_alike), -1).max(1), strict=True):
            fake.kl = float(kl)
    _cache(batches)


def encode_together(pairs: Iterable[Pair]) -> list[Batch]:
    """Encode tensors, those that are alike in one pass."""
    alike: dict[tuple, list[Pair]] = {}
    for fake, weight in pairs:
        alone = fake if fake.large and weight.device.type == "cpu" else None
        shape = fake.config.normalize, fake.config.levels, fake.groups, fake.numel
        alike.setdefault((*shape, weight.dtype, weight.device, alone), []).append((fake, weight))
    return [(batch, _encode(batch)) for batch in alike.values()]


def _encode(batch: list[Pair]) -> Encoded:
    first, weight = batch[0]
    if len(batch) == 1:
        return first.encode(weight)
    x = torch.cat([weight.detach().reshape(fake.groups, -1) for fake, weight in batch]).float()
    codebook = torch.cat([fake.normalized_levels() for fake, _ in batch])
    bounds = torch.cat([fake.boundaries() for fake, _ in batch])
    return encode(*normalize(x, first.config.normalize, first.large), codebook, bounds, weight.dtype)


def _cache(batches: list[Batch]) -> None:
    for pairs, encoded in batches:
        for (fake, weight), own in zip(pairs, encoded.split(len(pairs)), strict=True):
            fake.cache.put(weight, own)
