"""What a `Recorder` measures of quantized tensors: on the device first, so that it need not be waited for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from qprompt.io.transfer import joined
from qprompt.quantization.batching import Batch, Counted
from qprompt.quantization.fake_quantize import FakeQuantize

STATISTICS = 4  # per tensor: mu, sigma, mean squared error, mean square of the weights


@dataclass
class Measured:
    """The measurements of one step.

    Attributes:
        number: of the step.
        quantized: name -> (its `FakeQuantize`, its full-precision parameter).
        fitted: names of the tensors whose levels were fitted in this step.
        codebooks: names of those whose levels are recorded.
        counted: the tensors with levels, encoded.
        names: of the tensors in the order of the statistics.
        numbers: statistics (tensors, STATISTICS), levels of the codebooks and numbers of `counted`, joined.
    """

    number: int
    quantized: Mapping[str, tuple[FakeQuantize, nn.Parameter]]
    fitted: set[str]
    codebooks: list[str]
    counted: Counted
    names: list[str]
    numbers: Tensor

    @classmethod
    def of(
        cls,
        number: int,
        quantized: Mapping[str, tuple[FakeQuantize, nn.Parameter]],
        fitted: set[str],
        codebooks: list[str],
    ) -> "Measured":
        """Measure tensors, those that are alike in one pass."""
        with_levels = {name: (f, w) for name, (f, w) in quantized.items() if f.active and f.config.levels}
        counted = Counted.of(with_levels.values())
        by_id = {id(fake): name for name, (fake, _) in quantized.items()}
        names = [by_id[id(fake)] for pairs, _ in counted.batches for fake, _ in pairs]
        parts = [_statistics_of_batch(batch) for batch in counted.batches]
        for name, (fake, weight) in quantized.items():
            if name in with_levels:
                continue
            names.append(name)
            parts.append(_statistics(weight.detach()[None], fake(weight)[None], fake.groups)[0])
        parts += [quantized[name][0].normalized_levels() for name in codebooks]
        parts += [counted.numbers()] if counted.batches else []
        return cls(number, quantized, fitted, codebooks, counted, names, joined(parts))

    def on_host(self, numbers: np.ndarray) -> tuple[dict[str, list[float]], dict[str, list[list[float]]]]:
        """Return the rows and the codebooks of the record.

        Args:
            numbers: `numbers` on the host.

        Returns:
            name -> [mu, sigma, KL, mse, SNR in dB, whether the levels were fitted], in the order of the module, and
            name -> (G, k).
        """
        own, left = np.split(numbers, [STATISTICS * len(self.names)])
        statistics = dict(zip(self.names, own.reshape(-1, STATISTICS).tolist(), strict=True))
        codebooks = {}
        for name in self.codebooks:
            shape = self.quantized[name][0].codebook.shape
            own, left = np.split(left, [shape.numel()])
            codebooks[name] = own.reshape(shape).tolist()
        by_id = {id(fake): name for name, (fake, _) in self.quantized.items()}
        kl = {by_id[id(fake)]: value for fake, value in self.counted.divergences(left)}
        rows = {}
        for name in self.quantized:
            mu, sigma, mse, power = statistics[name]
            snr = 10 * math.log10(power / mse) if mse > 0 and power > 0 else math.inf
            rows[name] = [mu, sigma, kl.get(name, math.nan), mse, snr, float(name in self.fitted)]
        return rows, codebooks


def _statistics_of_batch(batch: Batch) -> Tensor:
    pairs, encoded = batch
    weights = [weight.detach().reshape(1, -1) for _, weight in pairs]
    w = weights[0] if len(weights) == 1 else torch.cat(weights)
    return _statistics(w, encoded.values.reshape(w.shape), pairs[0][0].groups)


def _statistics(weight: Tensor, value: Tensor, groups: int) -> Tensor:
    """Return `STATISTICS` of N tensors W and W_q (N, ...), each of them in groups: (N, STATISTICS)."""
    w, value = (x.reshape(len(weight), groups, -1).float() for x in (weight, value))
    mu = w.mean(-1, keepdim=True)
    sigma = (w - mu).square().mean(-1).sqrt()
    error = (value - w).square().mean((1, 2))
    return torch.stack([mu.mean((1, 2)), sigma.mean(1), error, w.square().mean((1, 2))], dim=1)
