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
                f"accepts. Shorten the class name or use fewer context vectors."
            ) from None
    return torch.cat(rows)


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
