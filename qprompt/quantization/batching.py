"""One pass over all quantized tensors of a step: what makes `refresh_` fast, not what it computes.

On a GPU a pass costs its launches, so all tensors of one size are encoded together. On a CPU it costs its arithmetic,
and large tensors have tables of their own, so only small ones are.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from qprompt.io.transfer import joined
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
        ),
        ahead={},
    )


def measure_divergence(pairs: Iterable[Pair]) -> None:
    """Set `kl` of every tensor, with one transfer to the host in all; their encodings go to their caches."""
    counted = Counted.of(pairs)
    if counted.batches:
        counted.take(counted.numbers().cpu().numpy())


@dataclass
class Counted:
    """Tensors that were encoded to know how many of their entries lie on each level: first on the device only.

    Attributes:
        batches: the tensors.
        counts: of each batch, (groups, k).
        versions: of the weights when they were encoded.
        unknown: the quantizers whose P_ref is not on the host yet.
    """

    batches: list[Batch]
    counts: list[Tensor]
    versions: dict[FakeQuantize, tuple[int, int]]
    unknown: list[FakeQuantize]

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> "Counted":
        """Encode and count, without waiting for the device."""
        batches = encode_together(pairs)
        counts = [count(encoded.indices, encoded.levels.shape[1]) for _, encoded in batches]
        versions = {fake: fake.cache.version(weight) for alike, _ in batches for fake, weight in alike}
        return cls(batches, counts, versions, [fake for fake in versions if not fake.host_reference_is_known])

    def numbers(self) -> Tensor:
        """Return what `take` needs on the host, flat, on the device: the counts, and P_ref after a fit."""
        return joined([*(fake.reference for fake in self.unknown), *self.counts])

    def divergences(self, numbers: np.ndarray) -> Iterator[tuple[FakeQuantize, float]]:
        """Yield the quantizer of every tensor with KL(P_now || P_ref), the largest of its groups.

        Args:
            numbers: `numbers` on the host: there a divergence over k levels is less work than its launches on a device.
        """
        left = np.asarray(numbers, dtype=np.float64)
        for fake in self.unknown:
            own, left = np.split(left, [fake.reference.numel()])
            fake.know_host_reference(own.reshape(fake.reference.shape))
        for (pairs, _), each in zip(self.batches, self.counts, strict=True):
            own, left = np.split(left, [each.numel()])
            reference = np.concatenate([fake.host_reference() for fake, _ in pairs])
            groups = divergence(own.reshape(each.shape), reference)
            for (fake, _), kl in zip(pairs, groups.reshape(len(pairs), -1).max(1), strict=True):
                yield fake, float(kl)

    def take(self, numbers: np.ndarray, ahead: bool = False) -> None:
        """Set `kl` of every tensor; their encodings go to their caches.

        Args:
            numbers: `numbers` on the host.
            ahead: for the next `refresh_`, which then needs no transfer of its own.
        """
        for fake, kl in self.divergences(numbers):
            fake.kl = kl
        _cache(self.batches, self.versions if ahead else {})


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


def _cache(batches: list[Batch], ahead: Mapping[FakeQuantize, tuple[int, int]]) -> None:
    for pairs, encoded in batches:
        for (fake, weight), own in zip(pairs, encoded.split(len(pairs)), strict=True):
            fake.cache.put(weight, own, ahead.get(fake))
