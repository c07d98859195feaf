"""open_clip_config.json: what it says of heads and activation, for weights that do not."""

from typing import Any

from torch import Tensor

from qprompt.backbones.convert import Variant
from qprompt.backbones.dialects import sizes
from qprompt.errors import UserError

# Settings that change nothing that CLIP computes, or whose value is read from the weights.
_SIZES = {"image_size", "layers", "width", "patch_size", "head_width", "context_length", "vocab_size", "heads"}
_SIZES |= {"mlp_ratio", "patch_dropout", "hf_tokenizer_name", "tokenizer_kwargs", "pad_id", "eos_id"}
# Settings that are CLIP's only with this value.
_CLIPS = {"no_ln_pre": False, "pos_embed_type": "learnable", "pool_type": None, "proj_type": "linear"}
_POOLS = {"vision_cfg": ("tok",), "text_cfg": ("argmax",)}
_MODEL = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "custom_text", "init_logit_scale", "force_custom_text"}


def variant_of(config: dict[str, Any], state: dict[str, Tensor], origin: str) -> Variant:
    """Return how a model differs from openai's by open_clip's config.

    Args:
        config: the content of open_clip_config.json, or its "model_cfg".
        state: the weights under openai's names.
        origin: the config, for messages.

    Raises:
        UserError: it is not open_clip's, of another model, or of one whose layers are not CLIP's.
    """
    model = config.get("model_cfg", config)
    parts: dict[str, Any] = {}
    if isinstance(model, dict):
        parts = {name: model.get(name) for name in ("vision_cfg", "text_cfg")}
    if not parts or not all(isinstance(part, dict) for part in parts.values()):
        raise UserError(f"{origin} is not a config of open_clip: expected model_cfg with vision_cfg and text_cfg.")
    strange = [key for key in model if key not in _MODEL and model[key]]
    for name, part in parts.items():
        for key, value in part.items():
            same = key in _SIZES or value in (None, False) or (key in _CLIPS and value == _CLIPS[key])
            if not (same or (key == "pool_type" and value in _POOLS[name])):
                strange.append(f"{name}.{key}")
    if strange:
        raise UserError(
            f"{origin} describes a model whose layers are not CLIP's ({', '.join(strange[:4])}). "
            "--backbone open_clip:MODEL loads what open_clip itself can load."
        )
    vision, text = parts["vision_cfg"], parts["text_cfg"]
    places = [("text", "transformer", text)]
    if isinstance(vision.get("layers", 12), int):
        places.append(("image", "visual.transformer", vision))
    for name, place, part in places:
        said = (part.get("width", 512 if name == "text" else 768), part.get("layers", 12))
        if said != (true := sizes(state, place)):
            raise UserError(
                f"{origin} does not belong to the weights: its {name} branch has width {said[0]} and {said[1]} layers, "
                f"theirs {true[0]} and {true[1]}."
            )
    numbers = [vision.get("head_width", 64), text.get("heads", 8)]
    widths = [sizes(state, "visual.transformer")[0], sizes(state, "transformer")[0]]
    whole = all(isinstance(number, int) and number > 0 for number in numbers)
    if not whole or widths[0] % numbers[0] or widths[1] % numbers[1]:
        raise UserError(
            f"{origin}: vision_cfg.head_width {numbers[0]!r} and text_cfg.heads {numbers[1]!r} do not divide the "
            f"widths {widths[0]} and {widths[1]} of the weights."
        )
    gelu, head_width = not model.get("quick_gelu", False), vision.get("head_width", 64)
    image_heads = sizes(state, "visual.transformer")[0] // head_width
    return Variant(image_heads=image_heads, text_heads=text.get("heads", 8), image_gelu=gelu, text_gelu=gelu)


def smallest(image: tuple[int, int], text: tuple[int, int], quick_gelu: bool) -> dict[str, Any]:
    """Return a config that says no more than heads of width 64 and the activation.

    Args:
        image: width and layers of the image branch; (0, 0): a ResNet.
        text: width and layers of the text branch.
        quick_gelu: whether the activation is QuickGELU.
    """
    vision: dict[str, Any] = {"width": image[0], "layers": image[1]} if image[0] else {"layers": []}
    words = {"width": text[0], "layers": text[1], "heads": text[0] // 64}
    return {"model_cfg": {"quick_gelu": quick_gelu, "vision_cfg": vision, "text_cfg": words}}
