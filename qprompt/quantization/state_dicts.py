"""State dicts of quantized modules, and their translation from and to plain ones.

A quantized module has ``parametrizations.ctx.original`` where a plain one has ``ctx``. With ``strict=False`` a
checkpoint of the other kind would load nothing, in silence. The functions here translate, and refuse what does not fit.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qprompt.errors import UserError
from qprompt.quantization.api import quantized_parameters
from qprompt.quantization.fake_quantize import FakeQuantize
from qprompt.quantization.parameters import require_module, require_state_dict
from qprompt.quantization.state_dict_hooks import STATE


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
            state.update(fake.state_dict(prefix=original_key(name).removesuffix("original") + "0."))  # reset below
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
    return tuple(f"{base}0.{entry}" for entry in STATE)
