"""Where the learned context stands among the tokens of each class's prompt, and what classes share of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qprompt.backbones import ClipModel, import_clip
from qprompt.errors import UserError

WHOLE = 128  # rows: up to here masked-out pairs cost less than dealing rows into bins
BIN = 48  # rows: wide enough for efficient products, narrow enough that masked-out pairs cost little
POSITIONS = ("end", "middle", "front")  # of the class name among the context vectors (CoOp, section 3.2)


class PromptLayout(nn.Module):
    """The prompts of C classes as rows of vectors: fixed token embeddings, and slots for the learned context.

    Attention over text is causal and the feature is read at EOT, so only positions up to a class's EOT matter.
    Positions that hold the same in every class have the same keys and values in every class. The rows that
    are left to compute are therefore, in this order,

        P rows that all classes share (SOS, a generic context, words that all prompts begin with),
        then each class's own rows, from position P to its EOT.

    For attention, more than `WHOLE` rows are dealt into bins of at most `BIN`, classes kept whole. A row attends to
    the shared rows and to earlier rows of its own class, which a mask a bin says. With one bin the rows are the bin.

    Attributes (R rows of width D in all, N bins of S rows):
        words, position: what `prompt_layout` made it from.
        tokens, slots: (C, L) token ids; which context vector stands there instead, -1 for none.
        eot: (C,) position of EOT.
        n_shared: P.
        parts: layouts of consecutive classes each, to be encoded one after the other, or none (`split_`).
        recomputed: how many of the parts, the first ones, are encoded again in the backward pass.
        rows: (R, D) embedding and position of each row, the position alone where a context vector goes.
        context_rows, context_slots: the rows with a context vector, and which one it is.
        context_index: the same, but class c's vector j is number c * n_context + j in a class-specific layout.
        eot_rows: (C,) the row of each class's EOT.
        bins: (N * S,) the row at each place of the bins; a place that is empty names row 0.
        places: (R,) the place of each row.
        key_bins, key_places: the same for keys and values, which have the shared rows in front of each bin as well:
            (N * (P + S),) and (R,).
        mask: (N, 1, S, P + S) 0 where a row attends, else -inf; the shared rows first. One bin: (R, R).
    """

    words = ""
    position = "end"
    tokens: Tensor
    slots: Tensor
    eot: Tensor
    rows: Tensor
    context_rows: Tensor
    context_slots: Tensor
    context_index: Tensor
    eot_rows: Tensor
    bins: Tensor
    places: Tensor
    key_bins: Tensor
    key_places: Tensor
    mask: Tensor

    def __init__(
        self,
        clip_model: ClipModel,
        tokens: Tensor,
        slots: Tensor,
        class_specific: bool = False,
        n_shared: int | None = None,
    ):
        super().__init__()
        device = clip_model.token_embedding.weight.device
        tokens, slots = tokens.cpu(), slots.cpu()
        n_classes, length = tokens.shape
        self.n_classes, self.class_specific = n_classes, class_specific
        self.n_context = int(slots.max()) + 1
        self.parts, self.recomputed = nn.ModuleList(), 0
        eot = tokens.argmax(dim=-1)  # EOT has the highest id of CLIP's vocabulary
        self.n_shared = P = _n_shared(tokens, slots, eot, class_specific) if n_shared is None else n_shared
        own = torch.arange(length)[None] <= eot[:, None]
        own[:, :P] = False  # (C, L): a class's own positions

        def as_rows(values: Tensor) -> Tensor:
            return torch.cat([values[0, :P], values[own]])

        number = slots + self.n_context * torch.arange(n_classes)[:, None] * class_specific
        context_rows = (as_rows(slots) >= 0).nonzero()[:, 0]
        with torch.no_grad():
            fixed = clip_model.token_embedding(as_rows(tokens).to(device)).type(clip_model.dtype)
            fixed[context_rows] = 0
            position = as_rows(torch.arange(length).expand(n_classes, -1))
            fixed += clip_model.positional_embedding.type(clip_model.dtype)[position]
        lengths = own.sum(dim=1)
        buffers = {
            "tokens": tokens,
            "slots": slots,
            "eot": eot,
            "rows": fixed,
            "context_rows": context_rows,
            "context_slots": as_rows(slots)[context_rows],
            "context_index": as_rows(number)[context_rows],
            "eot_rows": P + lengths.cumsum(0) - 1,
        }
        buffers |= _bins(P, lengths.tolist())
        for name, value in buffers.items():
            self.register_buffer(name, value.to(device), persistent=False)

    def split_(self, clip_model: ClipModel, rows: int) -> None:
        """Make `parts` of about `rows` rows each, at least one class; none if the whole is no larger."""
        own = self.eot + 1 - self.n_shared
        part = (own.cumsum(0) - 1) // max(1, rows - self.n_shared)
        counts = part.unique_consecutive(return_counts=True)[1].tolist()
        classes = torch.arange(self.n_classes, device=part.device).split(counts) if len(counts) > 1 else ()
        self.parts = nn.ModuleList(
            PromptLayout(clip_model, self.tokens[c], self.slots[c], self.class_specific, self.n_shared) for c in classes
        )

    def extra_repr(self) -> str:
        return f"classes={self.n_classes}, rows={len(self.rows)}, shared={self.n_shared}"


def _bins(n_shared: int, lengths: list[int]) -> dict[str, Tensor]:
    """Deal rows into bins: those attributes of a `PromptLayout`."""
    size = max(BIN if n_shared + sum(lengths) > WHOLE else WHOLE, n_shared, *lengths)
    contents: list[list[int]] = [[]]  # of each bin: the owner of each row; 0 owns the shared rows
    for owner, length in enumerate([n_shared, *lengths]):
        if len(contents[-1]) + length > size:
            contents.append([])
        contents[-1] += [owner] * length
    size = max(map(len, contents))
    owners = torch.tensor([bin + [-1] * (size - len(bin)) for bin in contents])  # (N, S), -1: empty
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    attends = (owners[:, :, None] == owners[:, None, :]) & causal  # (N, S, S): also keeps empty places finite
    if len(contents) == 1:
        attends = (attends | (owners[:, None, :] == 0) & causal)[0]
    else:
        shared = (owners > 0)[..., None].expand(-1, -1, n_shared)
        attends = torch.cat([shared, attends], dim=-1)[:, None]
    filled = owners >= 0
    bins = torch.where(filled, filled.flatten().cumsum(0).view(filled.shape) - 1, 0)
    shared_rows = torch.arange(n_shared).expand(len(contents), -1)
    return {
        "bins": bins.flatten(),
        "places": filled.flatten().nonzero()[:, 0],
        "key_bins": torch.cat([shared_rows, bins], dim=1).flatten(),
        "key_places": torch.cat([shared_rows < 0, filled], dim=1).flatten().nonzero()[:, 0],
        "mask": torch.zeros(attends.shape).masked_fill(~attends, float("-inf")),
    }


def _n_shared(tokens: Tensor, slots: Tensor, eot: Tensor, class_specific: bool) -> int:
    """How many leading positions hold the same in every class; the first EOT is never among them."""
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
    """The layout of "<words> <class name>." with the first `n_context` tokens of `words` learned.

    Args:
        words: the prompt before the class name. Tokens beyond the first `n_context` stay fixed words, as in
            MaPLe: "a photo of a" with 2 context vectors reads `[v1] [v2] of a <class>.`.
        position: of the class name: at the "end" of the context, in its "middle", or in "front" of it.
        class_specific: every class has context vectors of its own.

    Raises UserError for a prompt that is longer than the model's context, naming the class.
    """
    if position not in POSITIONS:
        raise UserError(f"CLASS_TOKEN_POSITION is one of {', '.join(POSITIONS)}; got {position!r}.")
    encode = import_clip().clip._tokenizer.encode
    if n_context > len(encode(words)):
        raise UserError(
            f"{n_context} context vectors take the place of as many tokens, but {words!r} has {len(encode(words))}: "
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
                f"{len(encode(words))} tokens for {n_context} context vectors. Use end, or other words."
            )
        before = n_context // 2 if position == "middle" else 0
        for row, name in enumerate(names):
            order = torch.arange(tokens.shape[1])
            start, stop = 1 + before, 1 + n_context + len(encode(name))
            # The class name moves in front of the context vectors from number `before` on.
            order[start:stop] = order[start:stop].roll(len(encode(name)))
            tokens[row], slots[row] = tokens[row, order], slots[row, order]
    layout = PromptLayout(clip_model, tokens, slots, class_specific)
    layout.words, layout.position = words, position
    return layout


def tokenize(clip_model: ClipModel, prompts: Sequence[str]) -> Tensor:
    """(C, L) token ids, L being the model's context length. Raises UserError for a prompt that is too long."""
    clip = import_clip()
    rows = []
    for prompt in prompts:
        try:
            rows.append(clip.tokenize(prompt, context_length=clip_model.context_length))
        except RuntimeError:
            raise UserError(
                f"the prompt {prompt!r} has more than the {clip_model.context_length} tokens the text encoder "
                f"takes. Shorten the class name or use fewer context vectors."
            ) from None
    return torch.cat(rows)


def initial_context(clip_model: ClipModel, n_context: int, words: str = "", n_classes: int = 0) -> Tensor:
    """Context vectors to start from: the embeddings of `words`' first tokens, or Gaussian noise (std 0.02).

    Returns (n_context, D), or (n_classes, n_context, D) when `n_classes` is given, in fp32.
    """
    width = clip_model.ln_final.weight.shape[0]
    if words:
        with torch.no_grad():
            embedding = clip_model.token_embedding(tokenize(clip_model, [words])).float()
        context = embedding[0, 1 : 1 + n_context]
        return context.expand(n_classes, -1, -1).clone() if n_classes else context.clone()
    shape = (n_classes, n_context, width) if n_classes else (n_context, width)
    return nn.init.normal_(torch.empty(shape), std=0.02)
