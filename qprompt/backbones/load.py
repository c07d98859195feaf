"""`load_clip`: a CLIP model by name or from a file."""

import os
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from qprompt.backbones.clip_package import ClipModel, import_clip
from qprompt.backbones.convert import (
    OPEN_CLIP,
    Variant,
    check_open_clip,
    check_same_features,
    load_open_clip,
)
from qprompt.backbones.files import find_weights, read_clip
from qprompt.backbones.weights import openai_file, openai_place
from qprompt.errors import UserError, did_you_mean

# Tensors from which the sizes of an openai CLIP are read.
_NEEDED = ("text_projection", "positional_embedding", "token_embedding.weight", "ln_final.weight", "logit_scale")


def available_backbones() -> list[str]:
    """Return the names that load without a file: "tiny", then OpenAI's."""
    return ["tiny", *_openai_urls()]


def _openai_urls() -> dict[str, str]:
    return import_clip().clip._MODELS


def missing_weights(name: str) -> Path | None:
    """Return where the weights of a named backbone are expected if they have not been downloaded, else None."""
    urls = _openai_urls()
    place = openai_place(urls[name]) if name in urls else None
    return place if place and not place.exists() else None


def load_clip(name: str, path: str | os.PathLike[str] = "", device: str | torch.device = "cpu") -> ClipModel:
    """Load a `clip.model.CLIP` in fp32, in eval mode, frozen. All its sizes come from the weights.

    Args:
        name: "tiny", one of OpenAI's ("ViT-B/16", "RN50", ...), or "open_clip:MODEL/PRETRAINED".
        path: File or folder with weights to use instead (see `files.read_clip`).
        device: Device of the model.

    Raises:
        UserError: The name is unknown, or the file is not a CLIP model.
    """
    origin = str(path) if path else name
    if name.startswith(OPEN_CLIP):
        original, state, variant = load_open_clip(name, str(path))
        model = build_clip(state, origin, variant)
        check_same_features(original, model, origin)
        return model.to(device)
    state, variant = read_clip(path) if path else (load_state_dict(name), Variant())
    return build_clip(state, origin, variant).to(device)


def load_state_dict(name: str, path: str | os.PathLike[str] = "") -> dict[str, Tensor]:
    """Return the weights of a backbone under openai's names, as they are stored (fp16 or fp32)."""
    if path:
        return read_clip(path)[0]
    if name == "tiny":
        from qprompt.backbones.tiny import tiny_state_dict

        return tiny_state_dict()
    check_backbone(name)
    return read_clip(openai_file(name, _openai_urls()[name]))[0]


def build_clip(state_dict: dict[str, Tensor], origin: str, variant: Variant = Variant()) -> ClipModel:  # noqa: B008
    """Build a CLIP model, in fp32, in eval mode, frozen.

    Args:
        state_dict: Weights with openai's names.
        origin: Where they come from, for error messages.
        variant: How the model differs from openai's.

    Raises:
        UserError: The weights are not those of a CLIP model.
    """
    missing = [name for name in _NEEDED if name not in state_dict]
    if missing:
        raise UserError(f"{origin} is not a CLIP model: it has no {missing[0]!r} among its {len(state_dict)} tensors.")
    # OpenAI's archives also contain three numbers that are not weights.
    sizes = ("input_resolution", "context_length", "vocab_size")
    state_dict = {name: value for name, value in state_dict.items() if name not in sizes}
    try:
        # build_model reads the sizes. It draws its initial weights from the global random state, as in upstream's
        # trainers, so that prompts drawn after it are the same for the same seed.
        model = import_clip().model.build_model(dict(state_dict)).float()
    except (RuntimeError, KeyError, AssertionError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the weights in {origin} don't make a CLIP model: {reason}") from error
    # build_model rounds to fp16, but the weights may be fp32.
    model.load_state_dict(state_dict)
    variant.apply_(model)
    return model.eval().requires_grad_(False)


def check_backbone(name: str, path: str | os.PathLike[str] = "") -> None:
    """Raise UserError for a name or a file that `load_clip` cannot load, without loading anything."""
    if path:
        find_weights(path)
    if name.startswith(OPEN_CLIP):
        check_open_clip(name)
        return
    known = available_backbones()
    if not path and name not in known:
        raise UserError(
            f"no backbone {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}; "
            f"or give a file with MODEL.BACKBONE.PATH."
        )


def convert_weights_(model: ClipModel, dtype: torch.dtype, but: Collection[str] = ()) -> None:
    """Convert to `dtype` what CLIP has in half precision: layers and projections, not norms and embeddings.

    Args:
        model: Changed in place.
        dtype: Of half precision.
        but: Names of parameters that stay in fp32.
    """
    values = {name: parameter.data for name, parameter in model.named_parameters()}
    import_clip().model.convert_weights(model)
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float16:
            parameter.data = values[name] if name in but else values[name].to(dtype)
