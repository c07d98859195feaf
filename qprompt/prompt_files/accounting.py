"""The stored size of a quantized prompt, and its quantization error.

A tensor takes b*N bits of indices and 16 * 2^b bits of levels (arXiv 2407.10704, section 3.4). Other trained tensors
(biases) stay in half precision and are counted apart. 1 KB = 1000 bytes.
"""

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qprompt.quantization.api import quantized_parameters


class TensorCost(NamedTuple):
    """One stored tensor: its payload in bytes, its size in half precision, and its quantization error."""

    name: str
    shape: tuple[int, ...]
    bits: int
    payload_bytes: int
    fp16_bytes: int
    mse: float  # mean of (W_q - W)^2
    snr_db: float  # 10 log10(mean W^2 / mse)
    refits: int


@torch.no_grad()
def quantized_costs(module: nn.Module, half: Collection[str] = ()) -> list[TensorCost]:
    """Return a row per quantized tensor of `module`, without those that are `half`."""
    rows = []
    for name, (fake, weight) in quantized_parameters(module).items():
        if name in half:
            continue
        bits, n = fake.config.bits, weight.numel()
        payload = 2 * n if bits == 16 else -(-bits * n // 8) + 2 * fake.groups * 2**bits
        w = weight.detach().cpu().double()  # some devices have no float64
        mse = (fake(weight).cpu().double() - w).square().mean().item()
        snr = 10 * math.log10(w.square().mean().item() / mse) if mse > 0 else math.inf
        rows.append(TensorCost(name, tuple(weight.shape), bits, payload, 2 * n, mse, snr, max(fake.fits - 1, 0)))
    return rows


def half_precision_costs(module: nn.Module, half: Collection[str] = ()) -> list[tuple[str, tuple[int, ...], int]]:
    """Return (name, shape, bytes in half precision) of the trainable parameters that are stored without a codebook."""
    quantized = quantized_parameters(module)
    rounded = {name: weight for name, (_, weight) in quantized.items() if name in half}
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad and n not in quantized}
    plain = {n: p for n, p in trained.items() if ".parametrizations." not in f".{n}"}
    return [(name, tuple(p.shape), 2 * p.numel()) for name, p in {**plain, **rounded}.items()]


def table(module: nn.Module, half: Collection[str] = ()) -> str:
    """Return a table of what is stored: a line per tensor, and the sums.

    Args:
        module: with quantized parameters.
        half: names of those that are only rounded to half precision (16 bits).
    """
    rows = [
        (c.name, _shape(c.shape), f"{c.bits} bit", f"{c.payload_bytes:,}", f"{c.fp16_bytes:,}")
        for c in quantized_costs(module, half)
    ]
    kept = half_precision_costs(module, half)
    rows += [(name, _shape(shape), "fp16", f"{size:,}", f"{size:,}") for name, shape, size in kept]
    head = ("tensor", "shape", "stored as", "bytes", "fp16 bytes")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    costs = quantized_costs(module, half)
    payload, full = sum(c.payload_bytes for c in costs), sum(c.fp16_bytes for c in costs)
    lines.append(f"quantized: {payload:,} bytes ({payload / 1000:.2f} KB), {full / payload:.1f} times less than fp16")
    if kept:
        lines.append(f"kept in fp16: {sum(size for *_, size in kept):,} bytes")
    return "\n".join(lines)


def summary(module: nn.Module, half: Collection[str] = ()) -> dict[str, Any]:
    """Return the same as plain numbers, for metrics.json. Errors are pooled over all quantized entries."""
    costs = quantized_costs(module, half)
    entries = [math.prod(c.shape) for c in costs]
    mse = sum(c.mse * n for c, n in zip(costs, entries, strict=True)) / sum(entries)
    power = sum(_square_sum(weight) for name, (_, weight) in quantized_parameters(module).items() if name not in half)
    snr = 10 * math.log10(power / sum(entries) / mse) if mse > 0 else None
    return {
        "payload_bytes": sum(c.payload_bytes for c in costs),
        "fp16_kept_bytes": sum(size for *_, size in half_precision_costs(module, half)),
        "refits": sum(c.refits for c in costs),
        "mse": mse,
        "snr_db": snr,
        "tensors": [{**c._asdict(), "snr_db": c.snr_db if math.isfinite(c.snr_db) else None} for c in costs],
    }


def _square_sum(weight: Tensor) -> float:
    return weight.detach().cpu().double().square().sum().item()


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
