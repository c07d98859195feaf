"""The memory of a training step: an estimate, and text encoding within a bound."""

from dataclasses import dataclass
from typing import Any

from qprompt.backbones import ClipModel
from qprompt.prompted_clip.attention_blocks import BLOCK_ROWS
from qprompt.prompted_clip.image import images_at_once
from qprompt.prompted_clip.layout import PromptLayout

PARTS = 8  # the bound is split into about this many parts of the text
FP32 = 4  # bytes


@dataclass
class Memory:
    """Memory of a training step, in bytes.

    Attributes:
        weights: The CLIP model.
        text: Saved for the backward pass of the text branch.
        image: Saved for the backward pass of the image branch.
        work: Intermediate results of the largest layer.
    """

    weights: int
    text: int
    image: int
    work: int

    @property
    def peak(self) -> int:
        """All of them, without what the device's driver and libraries need."""
        return self.weights + self.text + self.image + self.work

    def __str__(self) -> str:
        parts = {"weights": self.weights, "saved for backward: text": self.text, "images": self.image}
        listed = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in parts.items())
        return f"{listed}; peak about {self.peak / 1e6:.0f} MB"


def saved_bytes_per_row(transformer: Any, itemsize: int) -> int:
    """Return the bytes that all layers of the fast path save per row for the backward pass.

    A layer saves the input of each layer norm (always in fp32) with its mean and deviation, queries, keys and values,
    the output of attention with a normalizer per head, and the hidden units.
    """
    width, heads = transformer.width, transformer.resblocks[0].attn.num_heads
    return len(transformer.resblocks) * ((8 * width + heads) * itemsize + 2 * (width + 2) * FP32)


def bound_text_memory_(layout: PromptLayout, clip_model: ClipModel, allowed: int, contexts: int = 1) -> None:
    """Split a layout into parts so that encoding it with gradients saves at most about `allowed` bytes.

    Parts beyond the bound are encoded again in the backward pass, which costs at most one more forward pass. Results
    stay equal to rounding. No part is smaller than a block of attention, since smaller matrix products are slow.

    Args:
        layout: The prompts; `parts` and `recomputed` are set.
        clip_model: The model that encodes them.
        allowed: Bytes.
        contexts: G of `encode_text`.
    """
    row = contexts * saved_bytes_per_row(clip_model.transformer, clip_model.dtype.itemsize)
    whole = len(layout.rows) * row <= allowed
    layout.split_(clip_model, len(layout.rows) if whole else max(BLOCK_ROWS, allowed // (PARTS * row)))
    layout.recomputed = len(layout.parts)
    for part in reversed(layout.parts):
        allowed -= len(part.rows) * row  # type: ignore[arg-type]
        if allowed < 0:
            return
        layout.recomputed -= 1


def training_memory(clip_model: ClipModel, layout: PromptLayout, batch: int, n_image: int, contexts: int = 1) -> Memory:
    """Estimate the memory of a training step.

    Args:
        clip_model: The frozen model.
        layout: The prompts.
        batch: Images per step.
        n_image: Number of image prompts; 0 if the image branch needs no backward pass.
        contexts: G of `encode_text`.
    """
    itemsize, text, visual = clip_model.dtype.itemsize, clip_model.transformer, clip_model.visual
    sizes: list[Any] = [len(part.rows) for part in (layout.parts or [layout])]  # type: ignore[arg-type]
    rows, at_once = contexts * sum(sizes[layout.recomputed :]), contexts * max(sizes)
    text_saved = max(rows, at_once) * saved_bytes_per_row(text, itemsize)
    image_saved = work = 0
    if hasattr(visual, "transformer"):
        tokens = len(visual.positional_embedding) + n_image
        image_saved = batch * tokens * saved_bytes_per_row(visual.transformer, itemsize) if n_image else 0
        work = min(batch, images_at_once(clip_model) or batch) * tokens * visual.transformer.width
    # Two tensors of hidden units, four times as wide as the layer, and one as wide as the layer.
    work = 9 * itemsize * max(work, at_once * text.width)
    weights = sum(p.numel() * p.element_size() for p in clip_model.parameters())
    return Memory(weights, text_saved, image_saved, work)
