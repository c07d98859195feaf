"""Text features of prompts over an unmodified CLIP: a plain way, and a fast one that gives the same."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qprompt.backbones import ClipModel
from qprompt.prompted_clip.layers import attention, layer
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
    x = clip_model.token_embedding(layout.tokens).type(clip_model.dtype)  # (C, L, D)
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
    and behind the last attention EOT alone. A layout in parts is encoded part by part."""
    if not layout.parts:
        return _encode_rows(clip_model, layout, context, deep)
    contexts = [context] * len(layout.parts)
    if context is not None and context.dim() == 3:
        contexts = list(context.split([part.n_classes for part in layout.parts]))
    features = []
    for number, (part, given) in enumerate(zip(layout.parts, contexts, strict=True)):
        encode = partial(_encode_rows, clip_model, part)
        if number < layout.recomputed and torch.is_grad_enabled():
            # The backward pass begins at the last parts: these are freed when the first ones are encoded again.
            encode = partial(checkpoint, encode, use_reentrant=False, preserve_rng_state=False)
        features.append(encode(given, deep))
    return torch.cat(features, dim=-2)


def _encode_rows(clip_model: ClipModel, layout: Any, context: Tensor | None, deep: Sequence[Tensor]) -> Tensor:
    x = layout.rows[None]  # (1, R, D)
    if context is not None:
        vectors = context[:, 0] if context.dim() == 4 else context.reshape(1, -1, context.shape[-1])
        values = vectors.type(x.dtype).index_select(1, layout.context_index)
        values = values + x[:, layout.context_rows]  # these rows hold the position embedding alone
        x = x.expand(vectors.shape[0], -1, -1).index_copy(1, layout.context_rows, values)
    attend = _attention_among(layout, layout.mask.to(x.dtype))
    blocks = clip_model.transformer.resblocks
    for number, block in enumerate(blocks):
        if 0 < number <= len(deep):
            values = deep[number - 1].type(x.dtype).index_select(0, layout.context_slots)
            x = x.index_copy(1, layout.context_rows, values.expand(x.shape[0], -1, -1))
        if number < len(blocks) - 1:
            x = layer(block, x, attend)
    eot = layout.eot_rows

    def attend_at_eot(heads: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(heads, torch.zeros_like(key).index_copy(1, eot, query), key, value)[:, eot]

    x = layer(blocks[-1], x, attend_at_eot, keep=eot)
    x = clip_model.ln_final(x).type(clip_model.dtype) @ clip_model.text_projection  # (G, C, E)
    return x if context is not None and context.dim() == 4 else x[0]


def _attention_among(layout: PromptLayout, mask: Tensor) -> Callable[..., Tensor]:
    """Attention among the rows of a layout: queries, keys, values (G, R, D) -> (G, R, D)."""
    if mask.dim() == 2:
        return partial(attention, mask=mask)
    n_bins, bins, places = len(mask), layout.bins, layout.places

    def attend(heads: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        G = query.shape[0]
        query = _Dealt.apply(query, bins, places, n_bins, 0)  # (G * N, S, D)
        keys = layout.key_bins, layout.key_places, n_bins, layout.n_shared
        key, value = (_Dealt.apply(x, *keys) for x in (key, value))  # (G * N, P + S, D)
        out = attention(heads, query, key, value, mask.repeat(G, 1, 1, 1))  # (G * N, S, D)
        return _Gathered.apply(out.unflatten(0, (G, n_bins)).flatten(1, 2), places, bins)

    return attend


class _Dealt(torch.autograd.Function):
    """Rows (G, R, D) at the places of all bins, (G * N, S, D); the first `n_shared` in front of each bin.

    Backward, each row takes what came to its place (an empty one has nothing to say) and the shared ones the sum: no
    zeros to add to, and on a GPU the same order every time.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, bins: Tensor, places: Tensor, n_bins: int, n_shared: int) -> Tensor:
        return rows.index_select(1, bins).unflatten(1, (n_bins, -1)).flatten(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, places, ctx.n_bins, ctx.n_shared = inputs
        ctx.save_for_backward(places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        n_bins, n_shared = ctx.n_bins, ctx.n_shared
        grad = grad.unflatten(0, (grad.shape[0] // n_bins, n_bins))  # (G, N, S, D)
        rows = grad.flatten(1, 2).index_select(1, *ctx.saved_tensors)
        if n_shared:
            rows[:, :n_shared] += grad[:, :, :n_shared].sum(1)
        return rows, None, None, None, None


class _Gathered(torch.autograd.Function):
    """Places (G, N * S, D) in the order of rows, (G, R, D).

    Backward, an empty place gets the gradient of row 0, which it names. What follows from that stays among empty
    places, because no other attends to them, and `_Dealt` leaves them out.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, places: Tensor, bins: Tensor) -> Tensor:
        return x.index_select(1, places)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad.index_select(1, *ctx.saved_tensors), None, None
