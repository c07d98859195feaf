"""Quantize parameters of any module in place, and train them (arXiv 2407.10704).

`quantize_` puts a `FakeQuantize` parametrization on parameters: the module computes with the quantized values, the
optimizer trains the full-precision ones. The forward pass changes no state. `refresh_`, called once a step, counts the
step and fits the levels when their policy says so.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from qprompt.errors import UserError
from qprompt.quantization.batching import Counted, cache_encodings, measure_divergence
from qprompt.quantization.config import QuantConfig, make_config
from qprompt.quantization.fake_quantize import FakeQuantize
from qprompt.quantization.forward_pass import all_in_forward, quantized_in, release
from qprompt.quantization.parameters import (
    check_quantizable,
    match_parameters,
    owner_of,
    parametrizations,
    refuse_tied,
    remove_parametrization,
    require_module,
)
from qprompt.quantization.state_dict_hooks import add_peft_hooks_


@torch.no_grad()
def quantize_(
    module: nn.Module, config: QuantConfig | None = None, names: Iterable[str] | str | None = None, **fields: Any
) -> list[str]:
    """Quantize parameters of `module` in place.

    Parameters keep their identity, so an optimizer that was built before goes on training them. Only the quantizer
    "lsq" adds parameters: build the optimizer after it. In mode "qat" with `start_step` 0 the levels are fitted at
    once. PEFT saves adapters and soft prompts of its own with their quantized values (docs/peft.md).

    Args:
        module: any module.
        config: the settings; default `QuantConfig()`.
        names: parameter names or glob patterns (``compound_prompts_text.*``). `config.include` replaces them.
        fields: fields of `QuantConfig` that override those of `config`.

    Returns:
        The names of the quantized parameters.

    Raises:
        UserError: `module` is not a module, a setting is not valid, a pattern matches no parameter, a parameter is
            quantized already, not floating-point or used under a second name, half precision cannot hold a value, or
            the group size does not divide a tensor. Nothing is changed then.
    """
    config = make_config(config, fields)
    chosen = match_parameters(module, config.include or names or (), config.exclude)
    if not chosen:
        raise UserError("nothing to quantize: name the parameters, e.g. names=['ctx']")
    refuse_tied(module, chosen)
    added = []
    for name in chosen:
        owner, leaf = owner_of(module, name)
        weight = getattr(owner, leaf)
        check_quantizable(name, weight)
        added.append((owner, leaf, weight, FakeQuantize(weight, config)))
    for owner, leaf, weight, fake in added:
        parametrize.register_parametrization(owner, leaf, fake)
        if fake.due:
            fake.fit(weight)
    add_peft_hooks_(module, chosen)
    return chosen


@torch.no_grad()
def refresh_(module: nn.Module) -> list[str]:
    """Count a step and fit the levels that are due. Call it once a step, before the forward pass.

    Call it once per optimizer step, not per micro-batch: with gradient accumulation all passes of a step use the same
    levels. It walks the submodules, so pass the smallest module that holds the quantized tensors. It synchronizes
    with the device at most once in steps without a fit.

    The forward pass that follows uses the encoding computed here. Between the two, change trained weights by
    operations on them (``weight.add_``), not through ``weight.data``, which torch does not count.

    Returns:
        The names of the tensors whose levels were fitted.

    Raises:
        UserError: the module holds no quantized tensor, or one holds NaN or infinity.
    """
    quantized = quantized_parameters(module)
    if not quantized:  # in silence, the levels would never be fitted again
        raise UserError("the module holds no quantized tensors: pass one that qprompt.quantize_ was called on")
    stale = [(fake, weight) for fake, weight in quantized.values() if not fake.cache.keep_ahead(weight)]
    measure_divergence(pair for pair in stale if pair[0].due is None)
    due = {
        name: (fake, weight)
        for name, (fake, weight) in quantized.items()
        if fake.due or (fake.due is None and fake.gate_is_open)
    }
    check_finite({name: weight for name, (_, weight) in due.items()})
    for fake, weight in due.values():
        fake.fit(weight)
    for fake, _ in quantized.values():
        fake.step += 1
    cache_encodings(quantized.values())
    return list(due)


@torch.no_grad()
def count_ahead(module: nn.Module) -> Counted | None:
    """Do the work of the next `refresh_` on the device, without waiting for it.

    A training loop that reads the loss anyway reads `Counted.numbers` with it, and gives them to ``take(numbers,
    ahead=True)``; the next `refresh_` then need not wait for the device. Between the two, change trained weights by
    operations on them only, as between `refresh_` and the forward pass.

    Returns:
        None if the next `refresh_` measures nothing.
    """
    counted = Counted.of(pair for pair in quantized_parameters(module).values() if pair[0].due is None)
    return counted if counted.batches else None


@torch.no_grad()
def finish_(module: nn.Module) -> list[str]:
    """Fit what was never fitted (mode "ptq", or a `start_step` that was not reached). Call it after the last step.

    Returns:
        The names of the tensors that were fitted.
    """
    pending = {name: pair for name, pair in quantized_parameters(module).items() if not pair[0].active}
    check_finite({name: weight for name, (_, weight) in pending.items()})
    for fake, weight in pending.values():
        fake.fit(weight)
    return list(pending)


@torch.no_grad()
def dequantize_(module: nn.Module, keep: str = "quantized") -> list[str]:
    """Turn quantized parameters into plain ones, in place.

    Args:
        module: a module with quantized parameters.
        keep: "quantized" values, or the "original" full-precision ones.

    Returns:
        The names of the parameters.
    """
    if keep not in ("quantized", "original"):
        raise UserError(f"keep is {keep!r}, expected 'quantized' or 'original'")
    names = list(quantized_parameters(module))
    for _, entry, owner, leaf in list(all_in_forward(module)):
        weight: Any = owner._parameters[leaf]
        if keep == "quantized":
            weight.data.copy_(entry.fake(weight))
        release(module, entry)
    for name in parametrizations(module, FakeQuantize):
        remove_parametrization(module, name, keep_result=keep == "quantized")
    return names


def quantized_parameters(module: nn.Module) -> dict[str, tuple[FakeQuantize, nn.Parameter]]:
    """Return, in order, name -> (its `FakeQuantize`, its full-precision parameter) of every quantized tensor."""
    require_module(module)
    return quantized_in(module)


def check_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise UserError if training drove a weight to NaN or infinity; the host waits for the device once."""
    finite = [weight.isfinite().all() for weight in weights.values()]
    if not finite or bool(torch.stack(finite).all()):
        return
    names = [name for name, each in zip(weights, finite, strict=True) if not bool(each)]
    raise UserError(f"{', '.join(names[:3])} holds NaN or infinite values: training diverged. Lower the learning rate.")
