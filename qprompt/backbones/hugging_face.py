"""CLIP of Hugging Face's transformers: its names and its config."""

from typing import Any

import torch
from torch import Tensor

from qprompt.backbones.convert import Variant
from qprompt.backbones.dialects import sizes
from qprompt.errors import UserError

_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_REST = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "logit_scale": "logit_scale",
}
_PROJECTIONS = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_BRANCHES = {"text_model.encoder.layers.": "transformer", "vision_model.encoder.layers.": "visual.transformer"}
_GELU = {"quick_gelu": False, "gelu": True}


def openai_names(state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return the weights under openai's names; UserError for a tensor that openai's CLIP does not have."""
    found, parts = {}, {}
    for name, value in state.items():
        if name in _REST:
            found[_REST[name]] = value
        elif name in _PROJECTIONS:
            found[_PROJECTIONS[name]] = value.T.contiguous()
        elif branch := next((branch for branch in _BRANCHES if name.startswith(branch)), ""):
            number, _, rest = name.removeprefix(branch).partition(".")
            module, _, kind = rest.rpartition(".")
            block = f"{_BRANCHES[branch]}.resblocks.{number}"
            if module in _LAYER:
                found[f"{block}.{_LAYER[module]}.{kind}"] = value
            else:
                parts[f"{block}.attn.in_proj_{kind}", module] = value
        elif not name.endswith("position_ids"):
            raise UserError(f"{origin} can't be prompted: it has {name}, which CLIP does not have.")
    for joined in {joined for joined, _ in parts}:
        try:
            found[joined] = torch.cat([parts.pop((joined, f"self_attn.{part}_proj")) for part in "qkv"])
        except KeyError:
            raise UserError(f"{origin} can't be prompted: it has no {joined} (self_attn.q_proj, ...).") from None
    if parts:
        raise UserError(f"{origin} can't be prompted: it has {next(iter(parts))[1]}, which CLIP does not have.")
    return found


def variant_of(config: dict[str, Any], state: dict[str, Tensor], origin: str) -> Variant:
    """Return how a model differs from openai's by its config.json.

    Args:
        config: the content of config.json.
        state: the weights under openai's names.
        origin: the config, for messages.

    Raises:
        UserError: it is the config of another model.
    """
    if config.get("model_type") != "clip":
        kind = config.get("model_type")
        raise UserError(f"{origin} is of model_type {kind!r}, expected 'clip': it can't be prompted.")
    text, image = config.get("text_config") or {}, config.get("vision_config") or {}
    # The defaults are those of transformers' CLIPTextConfig and CLIPVisionConfig, which leave out what equals them.
    sides = {}
    for name, side, width, layers, heads in (("text", text, 512, 12, 8), ("vision", image, 768, 12, 12)):
        place = "transformer" if name == "text" else "visual.transformer"
        said = (side.get("hidden_size", width), side.get("num_hidden_layers", layers))
        true = sizes(state, place)
        if said != true:
            raise UserError(
                f"{origin} does not belong to the weights: its {name} branch has width {said[0]} and {said[1]} layers, "
                f"theirs {true[0]} and {true[1]}."
            )
        n_heads, act = side.get("num_attention_heads", heads), side.get("hidden_act", "quick_gelu")
        if act not in _GELU or not isinstance(n_heads, int) or n_heads < 1 or said[0] % n_heads:
            raise UserError(f"{origin}: hidden_act {act!r} or {n_heads!r} heads in its {name} branch are not CLIP's.")
        sides[name] = (n_heads, _GELU[act], float(side.get("layer_norm_eps", 1e-5)))
    # 2 stands for the old rule: the largest token, which is EOT.
    if text.get("eos_token_id", 49407) not in (2, 49407) or len(state["token_embedding.weight"]) != 49408:
        raise UserError(f"{origin} can't be prompted: its tokens are not those of CLIP's tokenizer.")
    return Variant(
        image_heads=sides["vision"][0],
        text_heads=sides["text"][0],
        image_gelu=sides["vision"][1],
        text_gelu=sides["text"][1],
        image_eps=sides["vision"][2],
        text_eps=sides["text"][2],
    )
