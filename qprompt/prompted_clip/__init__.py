"""Prompted encoding of text and images over the unmodified openai CLIP model.

QPROMPT_REFERENCE=1 takes the plain path: whole prompts through the model's own blocks. The default path skips
what no feature depends on; tests hold the two against each other.
"""

from qprompt.prompted_clip.conditional import ConditionalCLIP
from qprompt.prompted_clip.image import encode_image
from qprompt.prompted_clip.layout import PromptLayout, initial_context, prompt_layout, tokenize
from qprompt.prompted_clip.model import PromptedCLIP, Prompts, normalize, similarity
from qprompt.prompted_clip.text import encode_text

__all__ = [
    "ConditionalCLIP",
    "PromptLayout",
    "PromptedCLIP",
    "Prompts",
    "encode_image",
    "encode_text",
    "initial_context",
    "normalize",
    "prompt_layout",
    "similarity",
    "tokenize",
]
