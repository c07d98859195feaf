"""The words of CLIP's vocabulary that lie nearest to learned context vectors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qprompt.backbones import import_clip
from qprompt.report.tables import Column, Table

NEAREST = 3
_CLASSES = 5  # class-specific contexts: how many classes are shown


def context_of(trainer: Any) -> Tensor | None:
    """The context at the input of the text encoder, (M, D) or class-specific (C, M, D); None where none is learned."""
    model = trainer.model
    if hasattr(model, "prompts"):
        context = model.prompts().text
    else:
        context = getattr(getattr(model, "prompt_learner", None), "ctx", None)
    return None if context is None else context.detach().float().cpu()


def words_table(contexts: dict[str, Tensor], clip_model: Any, classnames: Sequence[str], known: Tensor | None) -> Table:
    """A row a context vector, with its nearest words under each of `contexts` (e.g. full precision, quantized).

    Distances are Euclidean, to rows of the token embedding (V, D); `known` restricts them to these token ids.
    """
    first = next(iter(contexts.values()))
    specific = first.dim() == 3
    columns = [Column("Class")] * specific + [Column("Vector"), *map(Column, contexts)]
    if len(contexts) == 2:
        columns.append(Column("Moved by"))
    rows = []
    shown = classnames[:_CLASSES] if specific else [""]
    for label, classname in enumerate(shown):
        each = [context[label] if specific else context for context in contexts.values()]
        nearest = [_nearest(context, clip_model, known) for context in each]
        for position in range(len(each[0])):
            row = [classname] * specific + [f"[V]{position + 1}", *(words[position] for words in nearest)]
            if len(contexts) == 2:
                row.append(f"{(each[0][position] - each[1][position]).norm():.3g}")
            rows.append(row)
    notes = ["Words of CLIP's vocabulary by Euclidean distance (in brackets); a part of a word ends in '-'."]
    if specific and len(classnames) > _CLASSES:
        notes.append(f"The first {_CLASSES} of {len(classnames)} classes, each with a context of its own.")
    return Table("Nearest words of the context vectors", columns, rows, notes, group_by=int(specific))


def _nearest(context: Tensor, clip_model: Any, known: Tensor | None) -> list[str]:
    """(M, D) -> for each of the M vectors its nearest words in one line."""
    embedding = clip_model.token_embedding.weight.detach().float().cpu()
    ids = torch.arange(len(embedding)) if known is None else known
    distances = torch.cdist(context, embedding[ids])
    found = distances.topk(min(NEAREST, len(ids)), largest=False)
    lines = []
    for near, indices in zip(found.values.tolist(), ids[found.indices].tolist(), strict=True):
        lines.append(", ".join(f"{_word(i)} ({d:.2f})" for d, i in zip(near, indices, strict=True)))
    return lines


def _word(token: int) -> str:
    """The text of one token of OpenAI's byte-pair encoding."""
    text = import_clip().clip._tokenizer.decode([token])
    return text[:-1] if text.endswith(" ") else f"{text}-"


def known_tokens(backbone: str, path: str) -> Tensor | None:
    """Token ids that a backbone has learned; None: all. The embedded small CLIP knows the words of its world only."""
    if backbone != "tiny" or path:
        return None
    from safetensors.torch import load

    from qprompt.backbones import tiny

    return load(tiny._asset())["token_embedding.ids"].long()
