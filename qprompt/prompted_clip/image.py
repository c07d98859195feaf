"""Image features with learned prompts over an unmodified CLIP: a plain way, and a fast one that gives the same."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qprompt.backbones import ClipModel
from qprompt.errors import UserError
from qprompt.prompted_clip.attention import heads, mlp, project
from qprompt.prompted_clip.text import use_reference


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
    x = _tokens(visual, image)
    if prompts is not None:
        x = torch.cat([x, prompts.type(x.dtype).expand(len(x), -1, -1)], dim=1)
    x = visual.ln_pre(x)
    blocks = list(visual.transformer.resblocks)
    run, run_last = (_plain_layer, _plain_layer) if use_reference() else (_layer, _last_layer)
    for number, block in enumerate(blocks):
        if 0 < number <= len(deep):
            vectors = deep[number - 1].type(x.dtype).expand(len(x), -1, -1)
            x = torch.cat([x[:, : x.shape[1] - vectors.shape[1]], vectors], dim=1)
        x = (run_last if number == len(blocks) - 1 else run)(block, x)
    x = visual.ln_post(x[:, 0])
    return x @ visual.proj


def _tokens(visual: Any, image: Tensor) -> Tensor:
    """Class token and patch tokens with their positions: (B, 1 + grid**2, D)."""
    x = visual.conv1(image).flatten(2).permute(0, 2, 1)  # (B, grid**2, D)
    class_token = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
    return torch.cat([class_token, x], dim=1) + visual.positional_embedding.to(x.dtype)


def _plain_layer(block: Any, x: Tensor) -> Tensor:
    return block(x.permute(1, 0, 2)).permute(1, 0, 2)  # blocks take (T, B, D)


def _layer(block: Any, x: Tensor) -> Tensor:
    query, key, value = heads(project(block, block.ln_1(x), 0, 3), 3, block.attn.num_heads)  # (B, H, T, d)
    out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
    x = x + block.attn.out_proj(out)
    return x + mlp(block, block.ln_2(x))


def _last_layer(block: Any, x: Tensor) -> Tensor:
    """The last layer at the class token alone, where the feature is read: (B, 1, D)."""
    normed = block.ln_1(x)
    key, value = heads(project(block, normed, 1, 3), 2, block.attn.num_heads)
    (query,) = heads(project(block, normed[:, :1], 0, 1), 1, block.attn.num_heads)
    out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
    x = x[:, :1] + block.attn.out_proj(out)
    return x + mlp(block, block.ln_2(x))
