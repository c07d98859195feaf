"""Tokens of prompts, and context vectors to start from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qprompt.backbones import ClipModel, import_clip
from qprompt.errors import UserError


def tokenize(clip_model: ClipModel, prompts: Sequence[str]) -> Tensor:
    """Return (C, L) token ids of C prompts; L is the model's context length.

    Raises:
        UserError: A prompt is too long.
    """
    clip = import_clip()
    rows = []
    for prompt in prompts:
        try:
            rows.append(clip.tokenize(prompt, context_length=clip_model.context_length))
        except RuntimeError:
            raise UserError(
                f"the prompt {prompt!r} has more than the {clip_model.context_length} tokens that the text encoder "
                "accepts. Shorten the class name, or what stands around it (CTX_INIT, N_CTX or DATASET.TEMPLATE)."
            ) from None
    return torch.cat(rows)


def token_counts(classnames: Sequence[str]) -> list[int]:
    """Return the number of tokens of each class name in a prompt."""
    return [len(tokens) for tokens in _name_tokens(classnames)]


def same_prompts(classnames: Sequence[str]) -> list[list[str]]:
    """Return the groups of class names whose prompts are the same tokens, so that no prompt can tell them apart.

    CLIP's tokenizer ignores case, Unicode forms and repeated spaces; underscores are spaces.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, tokens in zip(classnames, _name_tokens(classnames), strict=True):
        groups.setdefault(tokens, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def describe_same_prompts(classnames: Sequence[str]) -> str:
    """Return a sentence on the classes whose prompts are the same tokens; "" if there are none."""
    groups = same_prompts(classnames)
    if not groups:
        return ""
    shown = "; ".join(" and ".join(repr(name) for name in group[:3]) for group in groups[:5])
    return (
        f"{sum(map(len, groups))} classes have the same prompt as another one, so CLIP cannot tell them apart: {shown}"
    )


def describe_no_words(classnames: Sequence[str]) -> str:
    """Return a sentence on class names that leave no words in a prompt or end it; "" if there are none."""
    encode = import_clip().clip._tokenizer.encode
    marks = {encode("<|startoftext|>")[0], encode("<|endoftext|>")[0]}
    for name, tokens in zip(classnames, _name_tokens(classnames), strict=True):
        if not tokens:
            return f"the class name {name!r} has no words, so that its prompt says nothing"
        if marks & set(tokens):
            return f"the class name {name!r} contains CLIP's mark of the start or the end of a text"
    return ""


def _name_tokens(classnames: Sequence[str]) -> list[tuple[int, ...]]:
    encode = import_clip().clip._tokenizer.encode
    return [tuple(encode(name.replace("_", " "))) for name in classnames]


def initial_context(clip_model: ClipModel, n_context: int, words: str = "", n_classes: int = 0) -> Tensor:
    """Return initial context vectors: embeddings of the first tokens of `words`, or Gaussian noise (std 0.02).

    Args:
        clip_model: Model with the embeddings; its text width is D.
        n_context: Number of context vectors.
        words: Words to start from; "": noise.
        n_classes: Number of classes with their own vectors; 0: all classes share them.

    Returns:
        (n_context, D) or (n_classes, n_context, D), fp32.
    """
    width = clip_model.ln_final.weight.shape[0]
    if words:
        with torch.no_grad():
            embedding = clip_model.token_embedding(tokenize(clip_model, [words])).float()
        context = embedding[0, 1 : 1 + n_context]
        return context.expand(n_classes, -1, -1).clone() if n_classes else context.clone()
    shape = (n_classes, n_context, width) if n_classes else (n_context, width)
    return nn.init.normal_(torch.empty(shape), std=0.02)
