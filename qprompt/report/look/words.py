"""The words of CLIP's vocabulary that are nearest to learned context vectors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qprompt.backbones import import_clip
from qprompt.report.tables import Column, Table

NEAREST = 3
_CLASSES = 5  # number of classes that are shown for class-specific contexts


def context_of(trainer: Any) -> Tensor | None:
    """Return the context at the input of the text encoder.

    Returns:
        Shape (M, D), or class-specific (C, M, D); None if no context is learned.
    """
    model = trainer.model
    if hasattr(model, "prompts"):
        context = model.prompts().text
    else:
        context = getattr(getattr(model, "prompt_learner", None), "ctx", None)
    return None if context is None else context.detach().float().cpu()


def words_table(contexts: dict[str, Tensor], clip_model: Any, classnames: Sequence[str], known: Tensor | None) -> Table:
    """Return a table with a row per context vector and its nearest words by Euclidean distance.

    Args:
        contexts: Name of a column -> context, (M, D) or (C, M, D); for instance latent and quantized.
        clip_model: The CLIP model with the token embedding.
        classnames: Names of the classes, for class-specific contexts.
        known: The token ids to choose from; None for all.
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
    notes = ["Nearest words of CLIP's vocabulary, with the Euclidean distance. A part of a word ends in '-'."]
    if specific and len(classnames) > _CLASSES:
        notes.append(f"The first {_CLASSES} of {len(classnames)} classes; each class has its own context.")
    return Table("Nearest words of the context vectors", columns, rows, notes, group_by=int(specific))


def _nearest(context: Tensor, clip_model: Any, known: Tensor | None) -> list[str]:
    """One line with the nearest words for each vector of a context (M, D)."""
    embedding = clip_model.token_embedding.weight.detach().float().cpu()
    ids = torch.arange(len(embedding)) if known is None else known
    distances = torch.cdist(context, embedding[ids])
    found = distances.topk(min(NEAREST, len(ids)), largest=False)
    lines = []
    for near, indices in zip(found.values.tolist(), ids[found.indices].tolist(), strict=True):
        lines.append(", ".join(f"{_word(i)} ({d:.2f})" for d, i in zip(near, indices, strict=True)))
    return lines


def _word(token: int) -> str:
    """The text of a token of OpenAI's byte-pair encoding."""
    text = import_clip().clip._tokenizer.decode([token])
    return text[:-1] if text.endswith(" ") else f"{text}-"


def known_tokens(backbone: str, path: str) -> Tensor | None:
    """Return the token ids that a backbone was trained on; None for all.

    The embedded small CLIP was trained only on the words of the embedded world.
    """
    if backbone != "tiny" or path:
        return None
    from safetensors.torch import load

    from qprompt.backbones import tiny

    return load(tiny._asset())["token_embedding.ids"].long()
