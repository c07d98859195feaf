"""Prompted encoding of text and images over the unmodified openai CLIP model.

With QPROMPT_REFERENCE=1, whole prompts go through the model's own layers (the plain path). The default, fast path skips
rows that no feature depends on. Tests compare the two.
"""

from qprompt.prompted_clip.conditional import ConditionalCLIP
from qprompt.prompted_clip.image import encode_image
from qprompt.prompted_clip.layout import PromptLayout, prompt_layout
from qprompt.prompted_clip.model import PromptedCLIP, Prompts, normalize, similarity
from qprompt.prompted_clip.text import encode_text
from qprompt.prompted_clip.tokens import (
    describe_no_words,
    describe_same_prompts,
    initial_context,
    same_prompts,
    token_counts,
    tokenize,
)

__all__ = [
    "ConditionalCLIP",
    "PromptLayout",
    "PromptedCLIP",
    "Prompts",
    "describe_no_words",
    "describe_same_prompts",
    "encode_image",
    "encode_text",
    "initial_context",
    "normalize",
    "prompt_layout",
    "same_prompts",
    "similarity",
    "token_counts",
    "tokenize",
]
