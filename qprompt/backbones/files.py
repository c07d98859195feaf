"""A CLIP model from a file or folder: its weights under openai's names, and what it computes with them."""

import importlib.util
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from qprompt.backbones import hugging_face, open_clip_config, shards
from qprompt.backbones.convert import Variant, from_slip, is_slip
from qprompt.backbones.dialects import recognize, sizes
from qprompt.backbones.weights import is_openai_archive, read_content
from qprompt.errors import UserError

HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
# Names of weights in folders, as transformers and open_clip write them; the first one that exists is read.
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TOKENS = 49408  # of CLIP's tokenizer
# Width and layers of image and text branch of OpenAI's models, whose heads are 64 wide. A ResNet has no image heads but
# those of its pooling, which are 64 wide in open_clip's too.
_OPENAI = {((768, 12), (512, 12)), ((1024, 24), (768, 12)), *(((0, 0), (width, 12)) for width in (512, 640, 768, 1024))}


def find_weights(path: str | os.PathLike[str]) -> Path:
    """Return the file with weights that a path names: itself, or the one in a folder.

    Raises:
        UserError: there is none.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        names = [name for whole in WEIGHTS for name in (whole, f"{whole}{shards.INDEX}")]
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is None:
            raise UserError(f"the folder {path} can't be read as CLIP weights: it has none of {', '.join(WEIGHTS)}.")
        return found
    if not path.is_file():
        raise UserError(f"no file {path}. MODEL.BACKBONE.PATH expects CLIP weights (.pt, .pth, .safetensors).")
    if re.search(r"-\d{5}-of-\d{5}\.", path.name):
        raise UserError(f"{path} is one of several files with weights: type the folder {path.parent}, or its index.")
    return path


def read_clip(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Variant]:
    """Read a CLIP model.

    A state dict contains neither the number of heads nor the activation. They come from the config file beside the
    weights (config.json of Hugging Face, open_clip_config.json); those of OpenAI's archives are known.

    Returns:
        The weights under openai's names, and how the model differs from openai's.

    Raises:
        UserError: the file is not a CLIP model, or does not say what it computes.
    """
    file = find_weights(path)
    state, variant = _read(file)
    check_values(state, str(file))
    return state, variant


def _read(file: Path) -> tuple[dict[str, Tensor], Variant]:
    is_index = file.name.endswith(shards.INDEX)
    found = recognize(shards.read_shards(file) if is_index else read_content(file), str(file))
    if found.names == "hugging face":
        state = hugging_face.openai_names(found.state, str(file))
        config = _config(file.with_name(HUGGING_FACE_CONFIG))
        if config is None:
            raise UserError(
                f"{file} is a CLIP model of Hugging Face. Its weights do not say the number of heads and the "
                f"activation: put its {HUGGING_FACE_CONFIG} beside it."
            )
        return state, hugging_face.variant_of(config, state, str(file.with_name(HUGGING_FACE_CONFIG)))
    if is_slip(found.state):
        return from_slip(found.state)
    state = found.state
    config = _config(file.with_name(OPEN_CLIP_CONFIG))
    if config is not None:
        return state, open_clip_config.variant_of(config, state, str(file.with_name(OPEN_CLIP_CONFIG)))
    if "text_projection" in state and not is_openai_archive(file):
        _ask(state, file)
    return state, Variant()


def check_values(state: dict[str, Tensor], origin: str) -> None:
    """Raise UserError for weights that are not numbers to compute with, or not of CLIP's tokenizer."""
    for name, value in state.items():
        if value.ndim > 1 and not value.is_floating_point():
            raise UserError(
                f"{origin} has {str(value.dtype).removeprefix('torch.')} values in {name}: it is quantized. Name the "
                "weights in floating point."
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{origin} has NaN or infinite values in {name}: the weights are damaged.")
    words = len(state["token_embedding.weight"]) if "token_embedding.weight" in state else TOKENS
    if words != TOKENS:
        raise UserError(f"{origin} can't be prompted: it has {words} tokens, CLIP's tokenizer has {TOKENS}.")


def _config(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} contains a {type(config).__name__}, expected an object.")
    return config


def _ask(state: dict[str, Tensor], file: Path) -> NoReturn:
    """Raise UserError: weights alone say neither the heads nor the activation. It says what to type."""
    image, text = (sizes(state, place) for place in ("visual.transformer", "transformer"))
    if (image, text) not in _OPENAI:
        raise UserError(
            f"{file} does not say how many attention heads it has, and its sizes (image {_text(image)}, text "
            f"{_text(text)}) are not those of OpenAI's models. {_what_to_type(image, text)}"
        )
    config = json.dumps(open_clip_config.smallest(image, text, quick_gelu=True))
    command = f"echo {shlex.quote(config)} > {shlex.quote(str(file.with_name(OPEN_CLIP_CONFIG)))}"
    raise UserError(
        f"{file} does not say its activation. If it is one of OpenAI's models, or was fine-tuned from one, type: "
        f'{command} . Most models of open_clip use GELU: type the same with "quick_gelu": false, or '
        f"--backbone {_example(_open_clip_models(image, text))}."
    )


def _text(size: tuple[int, int]) -> str:
    return f"width {size[0]} and {size[1]} layers" if size[0] else "ResNet"


def _what_to_type(image: tuple[int, int], text: tuple[int, int]) -> str:
    names = _open_clip_models(image, text)
    example = _example(names)
    more = f" (or {', '.join(names[1:4])})" if len(names) > 1 else ""
    return f"For a model of open_clip type --backbone {example}{more}, or put its {OPEN_CLIP_CONFIG} beside it."


def _example(names: list[str]) -> str:
    return f"open_clip:{names[0]}" if names else "open_clip:MODEL"


def _open_clip_models(image: tuple[int, int], text: tuple[int, int]) -> list[str]:
    """Return the models of open_clip that have these sizes; none if it is not installed."""
    if importlib.util.find_spec("open_clip") is None:
        return []
    import open_clip

    found = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name) or {}
        vision, words = config.get("vision_cfg", {}), config.get("text_cfg", {})
        layers = vision.get("layers", 12)
        own = (vision.get("width", 768), layers) if isinstance(layers, int) else (0, 0)
        plain = "timm_model_name" not in vision and "hf_model_name" not in words
        if plain and own == image and (words.get("width", 512), words.get("layers", 12)) == text:
            found.append(name)
    return found
