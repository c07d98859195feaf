"""Quantized prompts while they are trained (arXiv 2407.10704).

`quantize_` puts a `FakeQuantize` parametrization on tensors of any module, in place: the module computes with the
quantized values, the optimizer trains the full-precision ones. The forward pass changes no state: `refresh_`, called
once a step, counts the step and fits the levels again when their policy says so.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from qprompt.errors import UserError
from qprompt.quantization.batching import Batch, divergence, encode_together
from qprompt.quantization.codebook import count
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.fake_quantize import FakeQuantize
from qprompt.quantization.parameters import match_parameters, owner_of, parametrizations, remove_parametrization

__all__ = [
    "FakeQuantize",
    "QuantConfig",
    "dequantize_",
    "finish_",
    "match_parameters",
    "quantize_",
    "quantized_parameters",
    "refresh_",
]


@torch.no_grad()
def quantize_(
    module: nn.Module, config: QuantConfig | None = None, names: Iterable[str] | str | None = None, **fields: Any
) -> list[str]:
    """Quantize parameters of `module` in place; return their names.

    `names`: parameter names or glob patterns (``compound_prompts_text.*``); `config.include` replaces them. `fields`
    override those of `config`. Parameters keep their identity, so an optimizer built before goes on training them;
    only method "lsq" adds parameters, so build the optimizer after it.

    In mode "qat" with `start_step` 0 the levels are fitted at once. Raises UserError, before anything is changed, for
    names that match no parameter, for values that half precision cannot hold, and for groups that do not fit.
    """
    config = dataclasses.replace(config or QuantConfig(), **fields)
    chosen = match_parameters(module, config.include or names or (), config.exclude)
    if not chosen:
        raise UserError("nothing to quantize: name the parameters, e.g. names=['ctx']")
    added = []
    for name in chosen:
        owner, leaf = owner_of(module, name)
        weight = getattr(owner, leaf)
        if not weight.is_floating_point() or not bool((weight.abs() <= torch.finfo(torch.float16).max).all()):
            raise UserError(f"{name} holds NaN, infinite or huge values, which half precision cannot hold")
        added.append((owner, leaf, weight, FakeQuantize(weight, config)))
    for owner, leaf, weight, fake in added:
        parametrize.register_parametrization(owner, leaf, fake)
        if fake.due:
            fake.fit(weight)
    return chosen


@torch.no_grad()
def refresh_(module: nn.Module) -> list[str]:
    """Once a step, before the forward pass: count the step, fit the levels that are due. Returns the names fitted.

    Not once a micro-batch: with gradient accumulation all of a step's passes use the same levels. It walks the
    submodules, so give it the smallest module that holds the quantized tensors. At most one host sync in all where
    nothing is, or was just, fitted.

    The values that it finds are those of the forward pass after it: between the two, change weights that train by
    operations on them (``weight.add_``), not on ``weight.data``, which torch does not count.
    """
    quantized = quantized_parameters(module)
    for fake, _ in quantized.values():
        fake.forget()
    batches = encode_together(pair for pair in quantized.values() if pair[0].due is None)
    _set_divergence(batches)
    _keep(batches)
    fitted = []
    for name, (fake, weight) in quantized.items():
        due = fake.due
        if due or (due is None and fake.kl > fake.config.kl_threshold):
            check_finite(name, weight)
            fake.fit(weight)
            fitted.append(name)
        fake.step += 1
    _keep(encode_together(pair for pair in quantized.values() if pair[0].to_encode(pair[1])))
    return fitted


@torch.no_grad()
def finish_(module: nn.Module) -> list[str]:
    """After the last step: fit what was never fitted (mode "ptq", or a start step never reached). Returns the names."""
    pending = {name: pair for name, pair in quantized_parameters(module).items() if not pair[0].active}
    for name, (fake, weight) in pending.items():
        check_finite(name, weight)
        fake.fit(weight)
    return list(pending)


@torch.no_grad()
def dequantize_(module: nn.Module, keep: str = "quantized") -> list[str]:
    """Make parameters plain again, in place; return their names.

    They keep the quantized values, or with keep="original" the full-precision ones.
    """
    if keep not in ("quantized", "original"):
        raise UserError(f"keep is {keep!r}, expected 'quantized' or 'original'")
    names = list(quantized_parameters(module))
    for name in names:
        remove_parametrization(module, name, keep_result=keep == "quantized")
    return names


def quantized_parameters(module: nn.Module) -> dict[str, tuple[FakeQuantize, nn.Parameter]]:
    """Name -> (parametrization, full-precision parameter) of every quantized tensor, in order."""
    return parametrizations(module, FakeQuantize)


def check_finite(name: str, weight: torch.Tensor) -> None:
    """Raises UserError for weights that training drove to NaN or infinity."""
    if not bool(torch.isfinite(weight).all()):
        raise UserError(f"{name} holds NaN or infinite values: training diverged. Lower the learning rate.")


def _set_divergence(batches: list[Batch]) -> None:
    """`kl` of every tensor: one transfer for all, as a divergence over k levels is less work than its launch."""
    counts = [count(coded.indices, coded.levels.shape[1]) for _, coded in batches]
    if not counts:
        return
    on_host = torch.cat([each.flatten() for each in counts]).cpu().split([each.numel() for each in counts])
    for (pairs, _), own, each in zip(batches, on_host, counts, strict=True):
        reference = np.concatenate([fake.host_reference() for fake, _ in pairs])
        groups = divergence(own.view(each.shape).numpy(), reference)
        for (fake, _), kl in zip(pairs, groups.reshape(len(pairs), -1).max(1), strict=True):
            fake.kl = float(kl)


def _keep(batches: list[Batch]) -> None:
    """Leave to each tensor what the forward pass needs of its batch."""
    for pairs, coded in batches:
        for (fake, weight), own in zip(pairs, coded.split(len(pairs)), strict=True):
            fake.keep(weight, own)
