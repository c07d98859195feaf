"""Image features with learned prompts over an unmodified CLIP: a plain way, and a fast one that gives the same."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qprompt.backbones import ClipModel
from qprompt.errors import UserError
from qprompt.prompted_clip.layers import attention, layer
from qprompt.prompted_clip.text import use_reference

ROWS = 2048  # at once on a CPU: 32 of ViT-B/16 took 7 to 15 % longer (benchmarks/products.py)


def encode_image(
    clip_model: ClipModel, image: Tensor, prompts: Tensor | None = None, deep: Sequence[Tensor] = ()
) -> Tensor:
    """Image features (B, E), not normalized.

    Args:
        image: (B, 3, H, W) pixels.
        prompts: (n, D) vectors appended after the patch tokens, behind the position embeddings (MaPLe, VPT).
        deep: for layers 2, 3, ...: (n, D) vectors that replace them before that layer.

    A ResNet takes no prompts: it has no tokens to append them to.
    """
    visual = clip_model.visual
    image = image.type(clip_model.dtype)
    if not hasattr(visual, "transformer"):
        if prompts is not None:
            raise UserError("image prompts need a ViT backbone; this one is a ResNet. CoOp, CoCoOp and QCoOp fit it.")
        return visual(image)
    plain = use_reference()
    at_once = None if plain else images_at_once(clip_model)
    if at_once and len(image) > at_once:
        return torch.cat([encode_image(clip_model, part, prompts, deep) for part in image.split(at_once)])
    x = _tokens(visual, image)
    if prompts is not None:
        x = torch.cat([x, prompts.type(x.dtype).expand(x.shape[0], -1, -1)], dim=1)
    x = visual.ln_pre(x)
    blocks = list(visual.transformer.resblocks)
    for number, block in enumerate(blocks):
        if 0 < number <= len(deep):
            vectors = deep[number - 1].type(x.dtype).expand(x.shape[0], -1, -1)
            x = torch.cat([x[:, : x.shape[1] - vectors.shape[1]], vectors], dim=1)
        if plain:
            x = block(x.permute(1, 0, 2)).permute(1, 0, 2)  # blocks take (T, B, D)
        else:  # behind the last attention, the class token alone
            x = layer(block, x, attention, keep=slice(1) if number == len(blocks) - 1 else None)
    x = visual.ln_post(x[:, 0])
    return x @ visual.proj


def images_at_once(clip_model: ClipModel) -> int | None:
    """On a CPU, as many as their hidden units stay in its cache; elsewhere, and in a graph for any batch, no bound."""
    position = clip_model.visual.positional_embedding
    if position.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    return max(1, ROWS // len(position))


def _tokens(visual: Any, image: Tensor) -> Tensor:
    """Class token and patch tokens with their positions: (B, 1 + grid**2, D)."""
    x = visual.conv1(image).flatten(2).permute(0, 2, 1)  # (B, grid**2, D)
    class_token = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
    return torch.cat([class_token, x], dim=1) + visual.positional_embedding.to(x.dtype)
