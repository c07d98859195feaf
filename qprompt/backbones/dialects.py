"""State dicts of CLIP in the forms in which others save them: wrapped, prefixed, or under other names."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from qprompt.errors import UserError

log = logging.getLogger(__name__)

_ANCHOR = "token_embedding.weight"  # every CLIP has it, at the place where its text branch begins
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # in the order in which they are preferred
_SEGMENTS = ("module", "_orig_mod")  # of DataParallel and torch.compile, at any place in a name
_HUGGING_FACE = "text_model.embeddings."
_ASK = "MODEL.BACKBONE.PATH expects the weights of a CLIP model."


@dataclass(frozen=True)
class Recognized:
    """Weights of one CLIP model, under the names of openai (or SLIP), or under those of Hugging Face's transformers."""

    state: dict[str, Tensor]
    names: Literal["openai", "hugging face"]


def recognize(content: Any, origin: str) -> Recognized:
    """Return the one CLIP model that a file contains.

    Args:
        content: of the file: a state dict, or a checkpoint with one in it.
        origin: the file, for messages.

    Raises:
        UserError: there is none, there are several, or it is a model of another kind.
    """
    state = _without_segments(_unwrapped(content, origin), origin)
    places = {name.removesuffix(_ANCHOR) for name in state if f".{name}".endswith(f".{_ANCHOR}")}
    if len(places) > 1:
        several = ", ".join(sorted(f"{place}{_ANCHOR}" for place in places))
        raise UserError(f"{origin} contains several text branches ({several}): save the state dict of one CLIP model.")
    place = next(iter(places), "")
    if place.endswith(_HUGGING_FACE):
        found = Recognized(_below(place.removesuffix(_HUGGING_FACE), state, origin), "hugging face")
    elif f".{place}".endswith(".text."):  # open_clip's models with separate text branches
        root = place.removesuffix("text.")
        found = Recognized(
            {name.removeprefix("text."): value for name, value in _below(root, state, origin).items()}, "openai"
        )
    else:
        found = Recognized(_below(place, state, origin), "openai")
    _refuse_others(found.state, bool(places), origin)
    return found


def _unwrapped(content: Any, origin: str) -> dict[str, Tensor]:
    found = dict(_state_dicts(content))
    models = {where: state for where, state in found.items() if any(n.endswith(_ANCHOR) for n in state)} or found
    chosen = next((name for name in ("", *_WRAPPERS) if name in models), None)
    if chosen is None and len(models) == 1:
        chosen = next(iter(models))
    if chosen is None:
        if models:
            raise UserError(
                f"{origin} contains several state dicts ({', '.join(models)}): save one of them in a file of its own."
            )
        kind = type(content).__name__
        how = "" if isinstance(content, (dict, list, tuple)) else ": save it with torch.save(model.state_dict(), FILE)"
        raise UserError(f"{origin} contains {kind}; expected a state dict (name -> tensor){how}.")
    if others := [name for name in models if name != chosen]:
        log.info("%s: weights under %r are used, not those under %s", origin, chosen, ", ".join(others))
    return models[chosen]


def _state_dicts(content: Any, where: str = "", depth: int = 3) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every dict with tensors in nested dicts, with its place."""
    if not isinstance(content, dict) or not depth:
        return
    state = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if state:
        yield where, state
    for name, value in content.items():
        if isinstance(name, str):
            yield from _state_dicts(value, f"{where}.{name}" if where else name, depth - 1)


def _without_segments(state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    found = {".".join(part for part in name.split(".") if part not in _SEGMENTS): t for name, t in state.items()}
    if len(found) < len(state):
        raise UserError(f"{origin} contains tensors whose names differ only in 'module.' or '_orig_mod.'. {_ASK}")
    return found


def _below(root: str, state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    inside = {name.removeprefix(root): value for name, value in state.items() if name.startswith(root)}
    outside = [name for name in state if not name.startswith(root)]
    if outside:
        log.info("%s: tensors outside %r are not used: %s", origin, root, ", ".join(outside[:5]))
    return inside


def _refuse_others(state: dict[str, Tensor], has_text: bool, origin: str) -> None:
    """Raise UserError for models of other kinds, by what they are."""

    def has(*parts: str) -> bool:
        return any(part in f".{name}" for name in state for part in parts)

    kind = ""
    if has(".lora_", ".base_model."):
        kind = "an adapter of PEFT. Merge it into its model first (merge_and_unload) and save that one's state dict"
    elif has(".visual.trunk."):
        kind = "a model of open_clip with an image encoder of timm, whose layers are not CLIP's"
    elif has(".word_embeddings."):
        kind = "a model with a text encoder like BERT, which is not causal"
    elif has(".text_model.head.", ".logit_bias"):
        kind = "a SigLIP model, whose text branch is not causal"
    elif has(".text_decoder."):
        kind = "a CoCa model, whose text branch is not read at EOT"
    elif has(".ls_1.", ".gamma_1", ".rope."):
        kind = "a model whose layers are not CLIP's"
    elif has_text:
        return
    elif has(".prompt_learner.", ".token_prefix") or "ctx" in state:
        kind = "the prompts of a trainer, not a CLIP model. --model-dir or MODEL.INIT_WEIGHTS loads prompts"
    elif has(".vision_model.", ".visual.conv1.", ".class_embedding"):
        kind = "an image encoder without a text branch"
    elif has(".cls_token", ".fc.weight", ".head.weight") and not has(".text_projection"):
        kind = "an image classifier, not a CLIP model: it has no 'text_projection'"
    if kind:
        raise UserError(f"{origin} can't be prompted: it is {kind}. {_ASK}")


def sizes(state: dict[str, Tensor], place: str) -> tuple[int, int]:
    """Return width and number of layers of the transformer at a place in a state dict with openai's names."""
    first = state.get(f"{place}.resblocks.0.ln_1.weight")
    numbers = {name.split(".resblocks.")[1].split(".")[0] for name in state if name.startswith(f"{place}.resblocks.")}
    return (len(first) if first is not None else 0), len(numbers)
