"""Text features of prompts over an unmodified CLIP: a plain way, and a fast one that gives the same."""

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qprompt.backbones import ClipModel
from qprompt.prompted_clip.attention import attend_own, causal_mask, heads, mlp, project
from qprompt.prompted_clip.layout import PromptLayout


def use_reference() -> bool:
    """QPROMPT_REFERENCE=1 takes the plain path everywhere."""
    return os.environ.get("QPROMPT_REFERENCE", "") not in ("", "0")


def encode_text(
    clip_model: ClipModel, layout: PromptLayout, context: Tensor | None, deep: Sequence[Tensor] = ()
) -> Tensor:
    """Text features of every class, not normalized.

    Args:
        context: (n_context, D) generic; (C, n_context, D) class-specific; (G, 1, n_context, D) for G images at
            once (CoCoOp); None for a layout without context.
        deep: for layers 2, 3, ...: (n_context, D) vectors that replace what stands in the context's place
            before that layer (MaPLe's compound prompts).

    Returns (C, E); (G, C, E) for the four-dimensional context.
    """
    encode = encode_text_plain if use_reference() else encode_text_fast
    return encode(clip_model, layout, context, deep)


def encode_text_plain(
    clip_model: ClipModel, layout: PromptLayout, context: Tensor | None, deep: Sequence[Tensor] = ()
) -> Tensor:
    """The prompts at full length through the model's own blocks: the reference.

    Without context the features are bit-equal to ``clip_model.encode_text``.
    """
    if context is not None and context.dim() == 4:
        return torch.stack([encode_text_plain(clip_model, layout, each[0], deep) for each in context])
    x = layout.embedding  # (C, L, D)
    length = x.shape[1]
    is_context = (layout.slots >= 0)[..., None]

    def place(x: Tensor, vectors: Tensor) -> Tensor:
        index = layout.slots.clamp(min=0)
        vectors = vectors.type(x.dtype)
        classes = torch.arange(len(index), device=index.device)[:, None]
        return torch.where(is_context, vectors[index] if vectors.dim() == 2 else vectors[classes, index], x)

    if context is not None:
        x = place(x, context)
    x = x + clip_model.positional_embedding[:length].type(clip_model.dtype)
    for number, block in enumerate(clip_model.transformer.resblocks):
        if 0 < number <= len(deep):
            x = place(x, deep[number - 1])
        x = block(x.permute(1, 0, 2)).permute(1, 0, 2)  # blocks take (L, C, D)
    x = clip_model.ln_final(x).type(clip_model.dtype)
    return x[torch.arange(len(x), device=x.device), layout.eot] @ clip_model.text_projection


def encode_text_fast(
    clip_model: ClipModel, layout: PromptLayout, context: Tensor | None, deep: Sequence[Tensor] = ()
) -> Tensor:
    """The same, computing each row of the layout once: shared rows once for all classes, nothing after EOT,
    and in the last layer EOT alone."""
    x = layout.rows[None]  # (1, R, D)
    if context is not None:
        vectors = context[:, 0] if context.dim() == 4 else context.reshape(1, -1, context.shape[-1])
        values = vectors.type(x.dtype).index_select(1, layout.context_index)
        values = values + x[:, layout.context_rows]  # these rows hold the position embedding alone
        x = x.expand(len(vectors), -1, -1).index_copy(1, layout.context_rows, values)
    blocks = list(clip_model.transformer.resblocks)
    mask = causal_mask(layout.longest, x)
    for number, block in enumerate(blocks):
        if 0 < number <= len(deep):
            values = deep[number - 1].type(x.dtype).index_select(0, layout.context_slots)
            x = x.index_copy(1, layout.context_rows, values.expand(len(x), -1, -1))
        x = (_layer if number < len(blocks) - 1 else _last_layer)(block, x, layout, mask)
    x = clip_model.ln_final(x).type(clip_model.dtype) @ clip_model.text_projection  # (G, C, E)
    return x if context is not None and context.dim() == 4 else x[0]


def _pad(own: Tensor, layout: PromptLayout) -> Tensor:
    """Own rows (G, R - P, W) -> (G, C, S, W), zeros after each class's EOT."""
    G, _, W = own.shape
    zeros = own.new_zeros(G, layout.n_classes * layout.longest, W)
    return zeros.index_copy(1, layout.padded, own).unflatten(1, (layout.n_classes, layout.longest))


def _layer(block: Any, x: Tensor, layout: PromptLayout, mask: Tensor) -> Tensor:
    P, H = layout.n_shared, block.attn.num_heads
    qkv = project(block, block.ln_1(x), 0, 3)  # (G, R, 3D)
    query, key, value = heads(qkv[:, :P], 3, H)  # (G, H, P, d)
    shared = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    own_query, own_key, own_value = heads(_pad(qkv[:, P:], layout), 3, H)  # (G, H, C, S, d)
    own = attend_own(own_query, key, value, own_key, own_value, mask)  # (G, C, S, D)
    own = own.flatten(1, 2).index_select(1, layout.padded)
    x = x + block.attn.out_proj(torch.cat([shared.movedim(1, -2).flatten(-2), own], dim=1))
    return x + mlp(block, block.ln_2(x))


def _last_layer(block: Any, x: Tensor, layout: PromptLayout, mask: Tensor) -> Tensor:
    """The last layer at EOT alone: (G, C, D)."""
    P, H = layout.n_shared, block.attn.num_heads
    normed = block.ln_1(x)
    key_value = project(block, normed, 1, 3)
    key, value = heads(key_value[:, :P], 2, H)
    own_key, own_value = heads(_pad(key_value[:, P:], layout), 2, H)
    (query,) = heads(project(block, normed[:, layout.eot_rows], 0, 1)[:, :, None], 1, H)  # (G, H, C, 1, d)
    out = attend_own(query, key, value, own_key, own_value, mask[layout.eot_places][:, None])[:, :, 0]
    x = x[:, layout.eot_rows] + block.attn.out_proj(out)
    return x + mlp(block, block.ln_2(x))
