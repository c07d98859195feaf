"""Learned prompts in checkpoints: upstream's and ours, plain or quantized."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from qprompt.errors import UserError
from qprompt.prompts import Method, get_method, identify
from qprompt.prompts.method import LEARNER, RECOMPUTED
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
    plain = (key for key, value in state.items() if isinstance(value, Tensor) and "parametrizations." not in key)
    prompts = {key: StoredPrompt(state[key], None) for key in plain}
    for key in state:
        if key.endswith(".original") and "parametrizations." in key:  # among the state of a quantized tensor
            name, prompt = _quantized_prompt(state, key)
            prompts[name] = prompt
    try:
        method = identify([name for name in prompts if not _is_frozen(name)])
    except UserError as error:
        raise UserError(f"{error} It has: {', '.join(list(state)[:6]) or 'nothing'}.") from None
    found = {name: prompts[name] for name in method.names(prompts)}
    try:
        method.restore({name: prompt.weight for name, prompt in found.items()})
    except (IndexError, RuntimeError, ValueError, UserError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"its tensors have the names of {method.name}'s, but do not fit together: {reason}") from None
    return PromptsFound(method, found)


# Tensors of CLIP and of class names, which checkpoints of whole models hold too.
_OF_CLIP = re.compile(
    r"(^|.*\.)(image_encoder|text_encoder|clip_model|visual|ZS_image_encoder|clip)\."
    r"(visual\.)?(transformer\.)?(resblocks\.\d+\.(attn|ln_\d|mlp)\..+|layer\d\..+|attnpool\..+|(conv|bn|ln)\d\..+"
    r"|ln_(pre|post|final)\..+|(token_embedding|downsample)\..+"
    r"|class_embedding|positional_embedding|text_projection|proj|logit_scale)"
)


def _is_frozen(name: str) -> bool:
    return name == "logit_scale" or name.rpartition(".")[2] in RECOMPUTED or _OF_CLIP.fullmatch(name) is not None


def checkpoint_tensors(tensors: Mapping[str, Tensor], name: str, called: str = "") -> dict[str, Tensor]:
    """Return tensors of a prompt file under the keys of upstream's checkpoint.

    Args:
        tensors: by name.
        name: of the method whose trainer is to load them, in lower case.
        called: the trainer that the file names, or "".

    Raises:
        UserError: they are not this method's.
    """
    plain = {key.removeprefix(LEARNER): value for key, value in tensors.items()}
    wanted = get_method(name)
    own = identify(plain, called)
    if own is not wanted:
        hint = f"Use --as {own.key}"
        if (own.key, wanted.key) == ("maple", "ivlp"):
            hint = "'qprompt export --projected' makes independent prompts of them"
        raise UserError(f"it holds prompts of {own.trainer}, not those of {wanted.trainer}. {hint}.")
    return {wanted.checkpoint_key(key): plain[key] for key in wanted.names(plain)}


def original_checkpoints(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Return folder -> state dict, as the third-party trainer that learned the tensors writes and reads them.

    Args:
        tensors: by name.
        about: the metadata of the prompt file, with ``checkpoint``: name -> [folder, key], or None for a tensor that
            the trainer does not write to its checkpoints.

    Raises:
        UserError: the file does not say where each tensor belongs.
    """
    places = about.get("checkpoint")
    found: dict[str, dict[str, Tensor]] = {}
    if not isinstance(places, dict):
        raise UserError("it does not say which checkpoint it comes from: name the trainer, e.g. --as coop")
    for name, tensor in tensors.items():
        place = places.get(name)
        if place is None and name in places:  # its trainer does not write it to a checkpoint
            continue
        if not (isinstance(place, list) and len(place) == 2 and all(isinstance(part, str) for part in place)):
            raise UserError(f"it does not say where {name} belongs in a checkpoint")
        if not re.fullmatch(r"[\w.+-]+", place[0]) or place[0].startswith("."):
            raise UserError(
                f"it names {place[0]!r} as a folder, expected a name of letters, digits, '_', '.', '+' or '-'"
            )
        found.setdefault(place[0], {})[place[1]] = tensor
    return found


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
