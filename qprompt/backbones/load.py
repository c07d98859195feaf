"""`load_clip`: from a name or a file to a CLIP model."""

import hashlib
import os

import torch
from torch import Tensor

from qprompt.backbones.clip_package import ClipModel, import_clip
from qprompt.backbones.convert import (
    OPEN_CLIP,
    Dialect,
    check_open_clip,
    from_slip,
    is_slip,
    load_open_clip,
    same_features,
)
from qprompt.backbones.weights import openai_file, read_weights
from qprompt.errors import UserError, did_you_mean

# What the sizes of an openai CLIP are read from; without them a file is not such a model.
_NEEDED = ("text_projection", "positional_embedding", "token_embedding.weight", "ln_final.weight", "logit_scale")


def available_backbones() -> list[str]:
    """The names that load without a file: "tiny", then OpenAI's."""
    return ["tiny", *_openai_urls()]


def _openai_urls() -> dict[str, str]:
    return import_clip().clip._MODELS


def load_clip(name: str, path: str | os.PathLike[str] = "", device: str | torch.device = "cpu") -> ClipModel:
    """A `clip.model.CLIP` in fp32, in eval mode, frozen. All its sizes come from the weights.

    Args:
        name: "tiny", one of OpenAI's ("ViT-B/16", "RN50", ...), or "open_clip:MODEL/PRETRAINED".
        path: weights to take instead of the named ones (see `read_weights`); SLIP's are known by their names.
        device: where the model is put.

    Raises UserError for an unknown name and for a file that is not a CLIP model.
    """
    origin = str(path) if path else name
    if name.startswith(OPEN_CLIP):
        theirs, state, dialect = load_open_clip(name, str(path))
        model = build_clip(state, origin, dialect)
        same_features(theirs, model, origin)
        return model.to(device)
    return build_clip(load_state_dict(name, path), origin).to(device)


def load_state_dict(name: str, path: str | os.PathLike[str] = "") -> dict[str, Tensor]:
    """The weights of a backbone under openai-clip's names, as they are stored (fp16 or fp32)."""
    if path:
        return read_weights(path)
    if name == "tiny":
        from qprompt.backbones.tiny import tiny_state_dict

        return tiny_state_dict()
    check_backbone(name)
    return read_weights(openai_file(name, _openai_urls()[name]))


def build_clip(state_dict: dict[str, Tensor], origin: str, dialect: Dialect = Dialect()) -> ClipModel:  # noqa: B008
    """CLIP from weights with openai-clip's names, or SLIP's. `origin` says in errors where they came from."""
    if is_slip(state_dict):
        state_dict, dialect = from_slip(state_dict)
    missing = [name for name in _NEEDED if name not in state_dict]
    if missing:
        raise UserError(f"{origin} is not a CLIP model: {missing[0]!r} is missing among its {len(state_dict)} tensors.")
    # OpenAI's archives also hold three numbers that are no weights.
    sizes = ("input_resolution", "context_length", "vocab_size")
    state_dict = {name: value for name, value in state_dict.items() if name not in sizes}
    try:
        # build_model reads the sizes, and draws its initial weights from the global random state as upstream
        # trainers do: prompts drawn after it are the same for the same seed.
        model = import_clip().model.build_model(dict(state_dict)).float()
    except (RuntimeError, KeyError, AssertionError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the weights in {origin} don't make a CLIP model: {reason}") from error
    # build_model rounds to fp16; a file may hold fp32.
    model.load_state_dict(state_dict)
    dialect.apply_(model)
    return model.eval().requires_grad_(False)


def backbone_hash(model: ClipModel) -> str:
    """SHA-256 (hex) over names, shapes and fp32 values of a model's weights: the identity of a backbone."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


def check_backbone(name: str, path: str | os.PathLike[str] = "") -> None:
    """Raise UserError, without loading anything, for a name or a file that `load_clip` can't load."""
    if path and not os.path.isfile(os.path.expanduser(path)):
        raise UserError(f"no file {path}. MODEL.BACKBONE.PATH expects CLIP weights (.pt, .pth, .safetensors).")
    if name.startswith(OPEN_CLIP):
        check_open_clip(name)
        return
    known = available_backbones()
    if not path and name not in known:
        raise UserError(
            f"no backbone {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}; "
            f"or give a file with MODEL.BACKBONE.PATH."
        )


def convert_weights_(model: ClipModel, dtype: torch.dtype) -> None:
    """Put into `dtype` what CLIP runs in half precision: layers and projections, not norms and embeddings."""
    values = {name: parameter.data for name, parameter in model.named_parameters()}
    import_clip().model.convert_weights(model)
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float16:
            parameter.data = values[name].to(dtype)
