"""The prompts of all classes as rows of vectors, with the positions of the learned context."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qprompt.backbones import ClipModel, import_clip
from qprompt.errors import UserError
from qprompt.prompted_clip.attention_blocks import pack_rows
from qprompt.prompted_clip.row_blocks import RowBlocks
from qprompt.prompted_clip.tokens import tokenize

POSITIONS = ("end", "middle", "front")  # of the class name among the context vectors (CoOp, section 3.2)


class PromptLayout(nn.Module):
    """The prompts of C classes as rows of vectors: fixed token embeddings, and slots for the learned context.

    Attention over text is causal and the feature is read at EOT, so only positions up to a class's EOT matter. Leading
    positions with the same content in every class have the same keys and values in every class. The rows that have to
    be computed are therefore, in this order:

        P rows that all classes share (SOS, a generic context, words that all prompts begin with),
        then each class's own rows, from position P to its EOT.

    For attention, rows are packed into blocks on a CPU (see `qprompt.prompted_clip.attention_blocks`). On a GPU they
    stay in blocks (see `qprompt.prompted_clip.row_blocks`).

    Attributes (R rows of width D, L tokens per prompt):
        words, position: Arguments of `prompt_layout`.
        tokens: (C, L) token ids.
        slots: (C, L) number of the context vector at each position, -1 where there is none.
        eot: (C,) position of EOT.
        n_shared: P.
        parts: Layouts of consecutive classes that are encoded one after the other; empty unless `split_` made some.
        recomputed: Number of parts, from the first on, that are encoded again in the backward pass.
        rows: (R, D) embedding plus position embedding of each row; the position embedding alone at a context vector.
        context_rows: (K,) the rows at which context vectors stand.
        context_positions: (K, D) the position embeddings there.
        n_shared_slots: How many of the context vectors stand in shared rows; the others stand in each class.
        eot_rows: (C,) the row of each class's EOT.
        pack_index, unpack_index, key_pack_index, key_unpack_index, mask: See `pack_rows`.
    """

    words = ""
    position = "end"
    copies = 1  # of the shared rows
    tokens: Tensor
    slots: Tensor
    eot: Tensor
    rows: Tensor
    context_rows: Tensor
    context_positions: Tensor
    eot_rows: Tensor
    pack_index: Tensor
    unpack_index: Tensor
    key_pack_index: Tensor
    key_unpack_index: Tensor
    mask: Tensor

    def __init__(
        self,
        clip_model: ClipModel,
        tokens: Tensor,
        slots: Tensor,
        class_specific: bool = False,
        n_shared: int | None = None,
    ):
        """Lay out prompts.

        Args:
            clip_model: Model with the embeddings.
            tokens: (C, L) token ids.
            slots: (C, L) number of the context vector at each position, -1 where there is none.
            class_specific: Every class has its own context vectors.
            n_shared: P; None computes it.
        """
        super().__init__()
        device = clip_model.token_embedding.weight.device
        tokens, slots = tokens.cpu(), slots.cpu()
        n_classes, length = tokens.shape
        self.n_classes, self.class_specific = n_classes, class_specific
        self.n_context = int(slots.max()) + 1
        self.parts, self.recomputed = nn.ModuleList(), 0
        eot = tokens.argmax(dim=-1)  # EOT has the highest id of CLIP's vocabulary
        self.n_shared = P = _count_shared(tokens, slots, eot, class_specific) if n_shared is None else n_shared
        own = torch.arange(length)[None] <= eot[:, None]
        own[:, :P] = False  # (C, L): a class's own positions

        def as_rows(values: Tensor) -> Tensor:
            return torch.cat([values[0, :P], values[own]])

        context_rows = (as_rows(slots) >= 0).nonzero()[:, 0]
        with torch.no_grad():
            fixed = clip_model.token_embedding(as_rows(tokens).to(device)).type(clip_model.dtype)
            fixed[context_rows] = 0
            position = as_rows(torch.arange(length).expand(n_classes, -1))
            fixed += clip_model.positional_embedding.type(clip_model.dtype)[position]
        lengths = own.sum(dim=1)
        self.n_shared_slots = int((slots[0, :P] >= 0).sum())
        self._lengths: list[int] = lengths.tolist()
        self._context_rows = context_rows  # stays on the CPU
        self._blocks: RowBlocks | None = None
        buffers = {
            "tokens": tokens,
            "slots": slots,
            "eot": eot,
            "rows": fixed,
            "context_rows": context_rows,
            "context_positions": fixed[context_rows],
            "eot_rows": P + lengths.cumsum(0) - 1,
            **pack_rows(P, self._lengths),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.to(device), persistent=False)
        in_order = spread(torch.arange(self.n_context)[None, :, None], self.n_shared_slots, n_classes).flatten()
        if not torch.equal(in_order, as_rows(slots)[context_rows]):
            raise ValueError("every class has all context vectors, in the order of their numbers")

    def row_blocks(self) -> RowBlocks:
        """Return the rows as a GPU computes them; they are made once."""
        if self._blocks is None:
            with torch.inference_mode(False):  # what is made in it cannot be used outside
                self._blocks = RowBlocks(self, self._lengths, self._context_rows)
        return self._blocks

    def _apply(self, *args, **kwargs):
        self._blocks = None
        return super()._apply(*args, **kwargs)

    def split_(self, clip_model: ClipModel, rows: int) -> None:
        """Set `parts`, of about `rows` rows and at least one class each; to none if all rows fit into one part."""
        own = self.eot + 1 - self.n_shared
        part = (own.cumsum(0) - 1) // max(1, rows - self.n_shared)
        counts = part.unique_consecutive(return_counts=True)[1].tolist()
        classes = torch.arange(self.n_classes, device=part.device).split(counts) if len(counts) > 1 else ()
        self.parts = nn.ModuleList(
            PromptLayout(clip_model, self.tokens[c], self.slots[c], self.class_specific, self.n_shared) for c in classes
        )

    def extra_repr(self) -> str:
        return f"classes={self.n_classes}, rows={len(self.rows)}, shared={self.n_shared}"


def spread(vectors: Tensor, n_shared: int, n_classes: int, copies: int = 1) -> Tensor:
    """Return vectors (G, n, D) where they stand (G, K, D): the first `n_shared` in each copy, the others in each class.

    Backward, a vector gets the sum over its places in one reduction. The gradient of ``index_select`` would be added up
    by atomic operations on a GPU, in any order.
    """
    parts = (vectors[:, :n_shared], copies), (vectors[:, n_shared:], n_classes)
    spread = [part[:, None].expand(-1, times, -1, -1).flatten(1, 2) if times > 1 else part for part, times in parts]
    return torch.cat(spread, dim=1) if 0 < n_shared < vectors.shape[1] else spread[0 if n_shared else 1]


def _count_shared(tokens: Tensor, slots: Tensor, eot: Tensor, class_specific: bool) -> int:
    """Count the leading positions with the same content in every class; the first EOT is never among them."""
    same = (tokens == tokens[:1]) & (slots == slots[:1])
    generic = (slots >= 0) & (slots == slots[:1])
    same = same | generic  # the id under a context vector is a placeholder
    if class_specific:
        same = same & (slots < 0)
    differs = (~same.all(dim=0)).nonzero()
    first = int(differs[0]) if len(differs) else tokens.shape[1]
    return min(first, int(eot.min()))


def prompt_layout(
    clip_model: ClipModel,
    classnames: Sequence[str],
    words: str,
    n_context: int,
    position: str = "end",
    class_specific: bool = False,
) -> PromptLayout:
    """Lay out the prompts "<words> <class name>." with the first `n_context` tokens of `words` learned.

    Args:
        clip_model: Model with the embeddings.
        classnames: C class names; underscores count as spaces.
        words: The prompt before the class name. Tokens after the first `n_context` remain fixed words, as in MaPLe:
            "a photo of a" with 2 context vectors reads `[v1] [v2] of a <class>.`.
        n_context: Number of context vectors.
        position: Of the class name: at the "end" of the context, in its "middle", or in "front" of it.
        class_specific: Every class has its own context vectors.

    Raises:
        UserError: A prompt is longer than the model's context (the class is named), or the arguments do not fit.
    """
    if position not in POSITIONS:
        raise UserError(f"CLASS_TOKEN_POSITION is one of {', '.join(POSITIONS)}; got {position!r}.")
    encode = import_clip().clip._tokenizer.encode
    if n_context > len(encode(words)):
        raise UserError(
            f"{n_context} context vectors replace as many tokens, but {words!r} has {len(encode(words))}: "
            f"use fewer vectors (N_CTX) or more words (CTX_INIT)."
        )
    names = [name.replace("_", " ") for name in classnames]
    tokens = tokenize(clip_model, [f"{words} {name}." for name in names])
    slots = torch.full_like(tokens, -1)
    slots[:, 1 : 1 + n_context] = torch.arange(n_context)  # after SOS
    if position != "end":
        if len(encode(words)) != n_context:
            raise UserError(
                f"CLASS_TOKEN_POSITION {position} needs words of one token each, but {words!r} has "
                f"{len(encode(words))} tokens for {n_context} context vectors: "
                "type CLASS_TOKEN_POSITION end, or other words."
            )
        before = n_context // 2 if position == "middle" else 0
        for row, name in enumerate(names):
            order = torch.arange(tokens.shape[1])
            start, stop = 1 + before, 1 + n_context + len(encode(name))
            # Move the class name in front of the context vectors from number `before` on.
            order[start:stop] = order[start:stop].roll(len(encode(name)))
            tokens[row], slots[row] = tokens[row, order], slots[row, order]
    layout = PromptLayout(clip_model, tokens, slots, class_specific)
    layout.words, layout.position = words, position
    return layout
