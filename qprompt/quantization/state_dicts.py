"""State dicts of quantized modules, and their translation from and to plain ones.

A quantized module has ``parametrizations.ctx.original`` where a plain one has ``ctx``. With ``strict=False`` a
checkpoint of the other kind would load nothing, in silence. The functions here translate, and refuse what does not fit.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from qprompt.errors import UserError
from qprompt.quantization.api import quantized_parameters
from qprompt.quantization.fake_quantize import FakeQuantize
from qprompt.quantization.parameters import require_module, require_state_dict


def original_key(name: str) -> str:
    """Return the state-dict key of a full-precision parameter: ``a.ctx`` -> ``a.parametrizations.ctx.original``."""
    owner, _, leaf = name.rpartition(".")
    return f"{owner}.parametrizations.{leaf}.original".lstrip(".")


@torch.no_grad()
def plain_state_dict(module: nn.Module, latent: bool = False) -> dict[str, Tensor]:
    """Return the state dict that `module` would have without quantization, e.g. with a plain ``ctx``.

    Args:
        module: a module with quantized parameters.
        latent: return the full-precision values; by default the quantized ones, which the forward pass uses.
    """
    require_module(module)
    state = {key: value for key, value in module.state_dict().items() if ".parametrizations." not in f".{key}"}
    for name, (fake, weight) in quantized_parameters(module).items():
        state[name] = (weight if latent else fake(weight)).detach().clone()
    return state


@torch.no_grad()
def load_state_dict_(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Load a plain (``ctx``) or a quantized state dict into `module`, which may be quantized or not.

    From a quantized state dict, codebooks and step counts are restored; from a plain one they start afresh.

    Returns:
        The keys that were not used.

    Raises:
        UserError: a trainable parameter is missing or has another shape. Nothing is loaded then.
    """
    quantized = quantized_parameters(module)
    require_state_dict(state)
    state = dict(state)
    afresh: list[FakeQuantize] = []
    for name, (fake, _) in quantized.items():
        plain = state.pop(name, None)
        if plain is not None and original_key(name) not in state:  # a checkpoint may hold both, for other tools
            state[original_key(name)] = plain
            afresh.append(fake)
    own = dict(module.named_parameters())
    required = [key for key, p in own.items() if p.requires_grad]
    missing = [key for key in required if key not in state]
    for name, (fake, _) in quantized.items():
        if fake not in afresh:  # full-precision weights with the codebook of others would be another prompt
            missing += [key for key in _quantization_keys(name) if key not in state]
    if missing:
        raise UserError(
            f"the state dict has no {', '.join(missing)}; it has: {', '.join(list(state)[:12]) or 'nothing'}. "
            "Nothing was loaded: is this the checkpoint of another trainer or of another prompt depth?"
        )
    for key, tensor in module.state_dict().items():
        got = state.get(key)
        if key.endswith("_extra_state"):  # text of any length
            continue
        if isinstance(got, Tensor) and isinstance(tensor, Tensor) and got.shape != tensor.shape:
            raise UserError(f"{key} has shape {tuple(got.shape)} in the state dict, expected {tuple(tensor.shape)}")
    result = module.load_state_dict(state, strict=False)
    for fake in afresh:
        fake.reset()
    for fake, weight in quantized.values():
        if fake in afresh and fake.config.mode == "qat" and fake.config.start_step == 0:
            fake.fit(weight)
    return list(result.unexpected_keys)


def _quantization_keys(name: str) -> tuple[str, ...]:
    """Return the keys that must come with the full-precision values of a quantized parameter."""
    base = original_key(name).removesuffix("original")
    return tuple(f"{base}0.{entry}" for entry in ("codebook", "reference", "_extra_state"))


def add_plain_state_dict_hooks_(module: nn.Module) -> None:
    """Make ``module.load_state_dict`` accept plain and quantized state dicts, and ``module.state_dict()`` write both.

    For third-party code that calls these two, often with ``strict=False``. A missing prompt raises there too, and a
    tool that knows only ``ctx`` finds it, with the values that the forward pass uses.
    """
    owners = {name.rpartition(".")[0] for name in quantized_parameters(module)}
    for owner in map(module.get_submodule, sorted(owners)):
        # The underscored names are the ones that every supported torch has.
        owner._register_state_dict_hook(_write_plain)
        owner._register_load_state_dict_pre_hook(_read_plain, with_module=True)


_unquantized = False


@contextlib.contextmanager
def unquantized_view() -> Iterator[None]:
    """Within the context, give modules with `add_plain_state_dict_hooks_` the state dict of their unquantized selves.

    That is, full-precision values under plain names, and nothing else: what code computes with them (such as an average
    over epochs) and loads back is then meaningful. Loading fits the codebook again and keeps the step count.
    """
    global _unquantized
    outer, _unquantized = _unquantized, True
    try:
        yield
    finally:
        _unquantized = outer


def _write_plain(owner: nn.Module, state, prefix: str, _metadata) -> None:
    for name, (fake, weight) in _own_quantized(owner).items():
        if _unquantized:
            entries = f"{prefix}parametrizations.{name}."
            for key in [key for key in state if key.startswith(entries)]:
                del state[key]
        state[prefix + name] = weight.detach() if _unquantized else fake(weight).detach().clone()


def _read_plain(
    owner: nn.Module, state, prefix: str, _metadata, _strict, _missing, _unexpected, errors: list[str]
) -> None:
    for name, (fake, weight) in _own_quantized(owner).items():
        original = f"{prefix}parametrizations.{name}.original"
        plain = state.pop(prefix + name, None)
        if original in state:
            missing = [key for key in _quantization_keys(prefix + name) if key not in state]
            if missing:
                errors.append(f"the state dict has {original} without {', '.join(missing)}")
            continue
        if plain is None:
            errors.append(f"the state dict has no {prefix}{name}, and no {original}")
            continue
        state[original] = plain
        fresh = copy.deepcopy(fake)
        if not _unquantized:
            fresh.reset()
        if fresh.fits or (fresh.config.mode == "qat" and fresh.config.start_step == 0):
            fresh.fit(plain.to(weight))
        state.update(fresh.state_dict(prefix=f"{prefix}parametrizations.{name}.0."))


def _own_quantized(owner: nn.Module) -> dict[str, tuple[FakeQuantize, nn.Parameter]]:
    return {name: pair for name, pair in quantized_parameters(owner).items() if "." not in name}
