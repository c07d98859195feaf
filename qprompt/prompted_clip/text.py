"""Text features of prompts over an unmodified CLIP: a plain path, and a fast one with equal results."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qprompt.backbones import ClipModel
from qprompt.prompted_clip.attention_blocks import Pack, Unpack
from qprompt.prompted_clip.gpu_operations import attention_kernels, computing_type, launches_decide, layer_norm
from qprompt.prompted_clip.layout import PromptLayout, spread
from qprompt.prompted_clip.transformer_layer import attention, transformer_layer


def use_reference() -> bool:
    """Return whether QPROMPT_REFERENCE=1 asks for the plain path."""
    return os.environ.get("QPROMPT_REFERENCE", "") not in ("", "0")


def encode_text(
    clip_model: ClipModel, layout: PromptLayout, context: Tensor | None, deep: Sequence[Tensor] = ()
) -> Tensor:
    """Compute the text features of every class, not normalized.

    Args:
        clip_model: The unmodified model.
        layout: The prompts of C classes.
        context: (n_context, D) generic; (C, n_context, D) class-specific; (G, 1, n_context, D) for each of G images
            (CoCoOp); None for a layout without context.
        deep: (n_context, D) vectors for layers 2, 3, ... that replace the layer's input at the positions of the
            context (MaPLe's compound prompts).

    Returns:
        (C, E); (G, C, E) for a context with four dimensions.
    """
    encode = encode_text_plain if use_reference() else encode_text_fast
    return encode(clip_model, layout, context, deep)


def encode_text_plain(
    clip_model: ClipModel, layout: PromptLayout, context: Tensor | None, deep: Sequence[Tensor] = ()
) -> Tensor:
    """Compute `encode_text` on prompts of full length with the model's own layers: the reference.

    Without context the features are bit-equal to ``clip_model.encode_text``.
    """
    if context is not None and context.dim() == 4:
        return torch.stack([encode_text_plain(clip_model, layout, each[0], deep) for each in context])
    x = clip_model.token_embedding(layout.tokens).type(clip_model.dtype)  # (C, L, D)
    length = x.shape[1]
    is_context = (layout.slots >= 0)[..., None]

    def insert(x: Tensor, vectors: Tensor) -> Tensor:
        index = layout.slots.clamp(min=0)
        vectors = vectors.type(x.dtype)
        classes = torch.arange(len(index), device=index.device)[:, None]
        return torch.where(is_context, vectors[index] if vectors.dim() == 2 else vectors[classes, index], x)

    if context is not None:
        x = insert(x, context)
    x = x + clip_model.positional_embedding[:length].type(clip_model.dtype)
    with attention_kernels(x.device):
        for number, resblock in enumerate(clip_model.transformer.resblocks):
            if 0 < number <= len(deep):
                x = insert(x, deep[number - 1])
            x = resblock(x.permute(1, 0, 2)).permute(1, 0, 2)  # resblocks take (L, C, D)
    x = clip_model.ln_final(x).type(clip_model.dtype)
    return x[torch.arange(len(x), device=x.device), layout.eot] @ clip_model.text_projection


def encode_text_fast(
    clip_model: ClipModel, layout: PromptLayout, context: Tensor | None, deep: Sequence[Tensor] = ()
) -> Tensor:
    """Compute `encode_text` with each row of the layout once.

    Shared rows are computed once for all classes, rows after EOT not at all, and after the last attention only EOT. A
    layout with parts is encoded part by part.
    """
    if not layout.parts:
        return _encode_rows(clip_model, layout, context, deep)
    contexts = [context] * len(layout.parts)
    if context is not None and context.dim() == 3:
        contexts = list(context.split([part.n_classes for part in layout.parts]))
    features = []
    for number, (part, given) in enumerate(zip(layout.parts, contexts, strict=True)):
        encode = partial(_encode_rows, clip_model, part)
        if number < layout.recomputed and torch.is_grad_enabled():
            # Backward starts with the last parts, whose memory is free when the first ones are encoded again.
            encode = partial(checkpoint, encode, use_reentrant=False, preserve_rng_state=False)
        features.append(encode(given, deep))
    return torch.cat(features, dim=-2)


def _encode_rows(clip_model: ClipModel, layout: Any, context: Tensor | None, deep: Sequence[Tensor]) -> Tensor:
    places = layout.row_blocks() if launches_decide(layout.rows.device) else layout
    with attention_kernels(layout.rows.device):  # here, since the backward pass may encode again
        x = _first_rows(layout, places, context)
        if deep:
            deep = torch.stack(list(deep)).type(x.dtype)[:, : layout.n_context].unbind()
        in_blocks = places is not layout
        attend = places.attention(computing_type(x), x.shape[0]) if in_blocks else _attention_among(layout, x.shape[0])
        resblocks = clip_model.transformer.resblocks
        for number, resblock in enumerate(resblocks):
            if 0 < number <= len(deep):
                values = spread(deep[number - 1][None], layout.n_shared_slots, layout.n_classes, places.copies)
                x = x.index_copy(1, places.context_rows, values.expand(x.shape[0], -1, -1))
            if number < len(resblocks) - 1:
                x = transformer_layer(resblock, x, attend)
            elif in_blocks:
                x = transformer_layer(resblock, x, attend, select=places.eot_rows, select_queries=False)
            else:
                x = transformer_layer(resblock, x, _attention_at_eot(layout, attend), select=layout.eot_rows)
        x = layer_norm(clip_model.ln_final, x).type(clip_model.dtype) @ clip_model.text_projection  # (G, C, E)
    return x if context is not None and context.dim() == 4 else x.squeeze(0)


def _first_rows(layout: Any, places: Any, context: Tensor | None) -> Tensor:
    """The rows of the first layer: (G, R, D)."""
    x = places.rows[None]
    if context is None:
        return x
    vectors = context[:, 0] if context.dim() == 4 else context.reshape(1, -1, context.shape[-1])
    # Spread before they are rounded: their gradients are added up in their own precision.
    if not layout.class_specific:
        vectors = spread(vectors, layout.n_shared_slots, layout.n_classes, places.copies)
    values = vectors.type(x.dtype) + places.context_positions
    return x.expand(values.shape[0], -1, -1).index_copy(1, places.context_rows, values)


def _attention_among(layout: Any, groups: int) -> Callable[..., Tensor]:
    """Attention among the rows of a layout: queries, keys, values (G, R, D) -> (G, R, D)."""
    mask = layout.mask.to(layout.rows.dtype)
    if mask.dim() == 2:
        return partial(attention, mask=mask)
    n_blocks, pack_index, unpack_index = len(mask), layout.pack_index, layout.unpack_index
    mask = mask.repeat(groups, 1, 1, 1)

    def attend(heads: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query = Pack.apply(query, pack_index, unpack_index, n_blocks, 0)  # (G * N, S, D)
        how = layout.key_pack_index, layout.key_unpack_index, n_blocks, layout.n_shared
        key, value = (Pack.apply(x, *how) for x in (key, value))  # (G * N, P + S, D)
        out = attention(heads, query, key, value, mask)  # (G * N, S, D)
        return Unpack.apply(out.unflatten(0, (groups, n_blocks)).flatten(1, 2), unpack_index, pack_index)

    return attend


def _attention_at_eot(layout: Any, attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Attention of the rows of EOT: queries (G, C, D), keys and values (G, R, D) -> (G, C, D)."""
    eot = layout.eot_rows

    def attend_at_eot(heads: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(heads, torch.zeros_like(key).index_copy(1, eot, query), key, value)[:, eot]

    return attend_at_eot
