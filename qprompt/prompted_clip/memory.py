"""What a training step keeps in memory for its backward pass, and text encoding within a bound."""

from dataclasses import dataclass
from typing import Any

from qprompt.backbones import ClipModel
from qprompt.prompted_clip.image import images_at_once
from qprompt.prompted_clip.layout import BIN, PromptLayout

PARTS = 8  # of the bound: how finely text is cut when not all of it may be kept
FP32 = 4  # bytes


@dataclass
class Memory:
    """Bytes of a training step. `peak` leaves out what the device's driver and libraries take."""

    weights: int
    text: int  # kept for backward
    image: int  # likewise
    work: int  # the largest layer's intermediate results

    @property
    def peak(self) -> int:
        return self.weights + self.text + self.image + self.work

    def __str__(self) -> str:
        parts = {"weights": self.weights, "kept for backward: text": self.text, "images": self.image}
        listed = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in parts.items())
        return f"{listed}; peak about {self.peak / 1e6:.0f} MB"


def kept_per_row(transformer: Any, itemsize: int) -> int:
    """Bytes that a row keeps for backward in all layers of the fast path.

    A layer keeps the input of each layer norm (in fp32 always) with mean and deviation, queries, keys and values,
    what attention gathered with a normalizer a head, and the hidden units.
    """
    width, heads = transformer.width, transformer.resblocks[0].attn.num_heads
    return len(transformer.resblocks) * ((8 * width + heads) * itemsize + 2 * (width + 2) * FP32)


def bound_text_memory_(layout: PromptLayout, clip_model: ClipModel, allowed: int, contexts: int = 1) -> None:
    """Split `layout` so that encoding it with gradients keeps at most about `allowed` bytes.

    What is over the bound is encoded a second time in the backward pass, part by part, the rest is not: time grows by
    at most a forward pass. Results stay what they were, to rounding. No part is smaller than a bin, which products need
    to be fast. `contexts`: G of `encode_text`.
    """
    row = contexts * kept_per_row(clip_model.transformer, clip_model.dtype.itemsize)
    whole = len(layout.rows) * row <= allowed
    layout.split_(clip_model, len(layout.rows) if whole else max(BIN, allowed // (PARTS * row)))
    layout.recomputed = len(layout.parts)
    for part in reversed(layout.parts):
        allowed -= len(part.rows) * row  # type: ignore[arg-type]
        if allowed < 0:
            return
        layout.recomputed -= 1


def training_memory(clip_model: ClipModel, layout: PromptLayout, batch: int, n_image: int, contexts: int = 1) -> Memory:
    """The memory of a training step, estimated.

    Args:
        batch: images a step.
        n_image: prompts in the image branch; 0 where it keeps nothing for backward.
        contexts: G of `encode_text`.
    """
    itemsize, text, visual = clip_model.dtype.itemsize, clip_model.transformer, clip_model.visual
    sizes: list[Any] = [len(part.rows) for part in (layout.parts or [layout])]  # type: ignore[arg-type]
    rows, at_once = contexts * sum(sizes[layout.recomputed :]), contexts * max(sizes)
    text_kept = max(rows, at_once) * kept_per_row(text, itemsize)
    image_kept = work = 0
    if hasattr(visual, "transformer"):
        tokens = len(visual.positional_embedding) + n_image
        image_kept = batch * tokens * kept_per_row(visual.transformer, itemsize) if n_image else 0
        work = min(batch, images_at_once(clip_model) or batch) * tokens * visual.transformer.width
    # Two tensors of hidden units, four times the width, and one of the width.
    work = 9 * itemsize * max(work, at_once * text.width)
    weights = sum(p.numel() * p.element_size() for p in clip_model.parameters())
    return Memory(weights, text_kept, image_kept, work)
