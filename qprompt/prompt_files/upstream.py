"""Learned prompts in checkpoints: upstream's and ours, plain or quantized."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from qprompt.errors import UserError
from qprompt.prompts import Method, find_method, get_method, methods
from qprompt.prompts.method import LEARNER
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.fake_quantize import FakeQuantize
from qprompt.quantization.parameters import require_state_dict
from qprompt.quantization.quantizer_state import parse_extra_state


class StoredPrompt(NamedTuple):
    """A prompt in a checkpoint."""

    weight: Tensor  # full precision
    fake: FakeQuantize | None  # as it was trained, if it was quantized


class PromptsFound(NamedTuple):
    """The prompts of a checkpoint, by name without ``prompt_learner.``."""

    method: Method
    prompts: dict[str, StoredPrompt]


def find_prompts(state: Mapping[str, Any]) -> PromptsFound:
    """Return the method and the prompts of a state dict; UserError if it holds none that is known."""
    require_state_dict(state)
    state = {str(key).removeprefix(LEARNER): value for key, value in state.items()}
    prompts = {key: StoredPrompt(value, None) for key, value in state.items() if isinstance(value, Tensor)}
    for key in state:
        if key.endswith(".original") and "parametrizations." in key:
            name, prompt = _quantized_prompt(state, key)
            prompts[name] = prompt
    method = find_method(prompts)
    if method is None:
        known = ", ".join(sorted(m.name for m in methods()))
        some = ", ".join(list(state)[:6]) or "nothing"
        raise UserError(f"no prompts of {known} are in it (no 'ctx', no 'VPT'); it has: {some}")
    return PromptsFound(method, {name: prompts[name] for name in method.names(prompts)})


def checkpoint_tensors(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return tensors of a prompt file under the keys of upstream's checkpoint.

    Args:
        tensors: by name.
        name: of the method whose trainer is to load them, in lower case.

    Raises:
        UserError: they are not this method's.
    """
    plain = {key.removeprefix(LEARNER): value for key, value in tensors.items()}
    own, wanted = find_method(plain), get_method(name)
    if own is None:
        raise UserError(f"it holds {', '.join(list(plain)[:6])}, not the prompts of {wanted.trainer}.")
    if own is not wanted:
        hint = f"Use --as {own.key}"
        if (own.key, wanted.key) == ("maple", "ivlp"):
            hint = "'qprompt export --projected' makes independent prompts of them"
        raise UserError(f"it holds prompts of {own.trainer}, not those of {wanted.trainer}. {hint}.")
    return {wanted.checkpoint_key(key): plain[key] for key in wanted.names(plain)}


def _quantized_prompt(state: Mapping[str, Any], key: str) -> tuple[str, StoredPrompt]:
    """Read the prompt whose full-precision values are at `key`, e.g. ``proj.parametrizations.weight.original``."""
    weight = state[key]
    path, _, leaf = key.removesuffix(".original").rpartition("parametrizations.")
    base = key.removesuffix("original")
    own = {k.removeprefix(f"{base}0."): v for k, v in state.items() if k.startswith(f"{base}0.")}
    try:
        config = QuantConfig(**parse_extra_state(own["_extra_state"])["config"])
        fake = FakeQuantize(weight, config)
        fake.load_state_dict(own)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the quantization of {path}{leaf} in it cannot be read: {error}") from None
    return path + leaf, StoredPrompt(weight, fake if fake.active else None)
