"""``--fast``: encode less text in somebody's CoOp-like trainer, where one batch shows that nothing changes.

CLIP's text attention is causal: tokens after the end-of-text token never reach its feature, so encoding up to the
longest prompt is exact, and cheaper than all 77 positions. In evaluation the prompts are the same for every batch, so
their features are kept. Both are put into ``model.text_encoder``. On CPUs where PyTorch's own products take twice the
time they need, those with frozen weights are replaced as well. All of it is taken out again unless logits and gradients
of one batch agree with the original's to rounding.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprompt.io.random_state import random_state_kept
from qprompt.training.selection import unwrapped

TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1}  # of the largest entry; float32: 1e-4


def speed_up(trainer: Any) -> str:
    """Put the fast path into `trainer` if it may be there; say what was done."""
    model = getattr(trainer, "model", None)
    model = unwrapped(model) if isinstance(model, nn.Module) else None
    encoder, tokens = getattr(model, "text_encoder", None), getattr(model, "tokenized_prompts", None)
    if not (isinstance(encoder, nn.Module) and _is_causal(encoder) and isinstance(tokens, Tensor)):
        return "--fast: there is no text_encoder with tokenized_prompts like CoOp's; the model runs as it is"
    length, width = int(tokens.argmax(-1).max()) + 1, tokens.shape[-1]
    with _undisturbed(trainer):
        image = next(iter(trainer.test_loader))["img"].to(trainer.device)
        before = _figures(trainer, image)
        shortened, multiplied = _shorten(encoder, length), _multiply_faster()

        def remove() -> None:
            shortened()
            if multiplied is not None:
                multiplied()

        try:
            differences = list(map(_difference, before, _figures(trainer, image)))
        except Exception as error:  # somebody's encoder may do anything
            remove()
            first_line = str(error).partition("\n")[0]
            return f"--fast: {type(error).__name__}: {first_line}; the model runs as it is"
    tolerance = TOLERANCE.get(before[0].dtype, 1e-4)
    if not all(difference <= tolerance for difference in differences):  # NaN is not equal either
        remove()
        return f"--fast: logits or gradients differ by {max(differences):.1e} of the largest; the model runs as it is"
    products = "; products with frozen weights take oneDNN" if multiplied is not None else ""
    return (
        f"--fast: text is encoded up to token {length} of {width}, and kept in evaluation{products}; logits and "
        f"gradients of one batch differ by {max(differences):.1e} of the largest"
    )


def _is_causal(encoder: nn.Module) -> bool:
    blocks = getattr(getattr(encoder, "transformer", None), "resblocks", ())
    masks = [getattr(block, "attn_mask", None) for block in blocks]
    if not (masks and isinstance(getattr(encoder, "positional_embedding", None), Tensor)):
        return False
    return all(
        isinstance(mask, Tensor) and bool(torch.isneginf(mask)[torch.ones_like(mask).triu(1).bool()].all())
        for mask in masks
    )


def _figures(trainer: Any, image: Tensor) -> list[Tensor]:
    """Logits (B, C) of a batch, with and without gradient, then the gradient for each parameter that trains."""
    trainer.set_model_mode("eval")
    with torch.enable_grad():
        logits = trainer.model_inference(image)
        weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype, device=logits.device)
        parameters = [p for model in trainer._models.values() for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(logits.flatten() @ weights, parameters, allow_unused=True)
    with torch.no_grad():
        twice = [trainer.model_inference(image) for _ in range(2)]  # computed, then kept
    return [logits.detach(), *twice, *(gradient for gradient in gradients if gradient is not None)]


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.float(), b.float()
    return ((a - b).abs().max() / a.abs().max().clamp(min=1e-12)).item()


class _ShortText:
    """Comes first in the bases of somebody's text encoder: it then sees the first `length` positions only."""

    length: int
    kept: tuple[Any, Tensor] | None

    def forward(self, prompts: Tensor, tokenized_prompts: Tensor, *deeper: Any) -> Tensor:
        """Text features (C, E) of prompts (C, 77, D); in evaluation those of the last call, if nothing changed."""
        state = None if torch.is_grad_enabled() else _state(self, prompts, deeper)
        if state is None:
            self.kept = None
        elif self.kept is not None and _same(state, self.kept[0]):
            return self.kept[1]
        # The parameter stays where it is for state dicts; only this call sees its beginning.
        place: Any = self._parameters if "positional_embedding" in self._parameters else vars(self)  # type: ignore[attr-defined]
        position = place["positional_embedding"]
        place["positional_embedding"] = position[: self.length]
        try:
            features = super().forward(prompts[:, : self.length], tokenized_prompts, *deeper)  # type: ignore[misc]
        finally:
            place["positional_embedding"] = position
        if state is not None:
            self.kept = (state, features)
        return features


def _shorten(encoder: Any, length: int) -> Callable[[], None]:
    """Put `_ShortText` into `encoder`; returns what takes it out. A class, so that a copy of the model has its own."""
    cls, blocks = type(encoder), list(encoder.transformer.resblocks)
    masks = [block.attn_mask for block in blocks]
    for block, mask in zip(blocks, masks, strict=True):
        block.attn_mask = mask[:length, :length]
    encoder.__class__ = type(cls.__name__, (_ShortText, cls), {})
    encoder.length, encoder.kept = length, None

    def remove() -> None:
        encoder.__class__ = cls
        del encoder.length, encoder.kept
        for block, mask in zip(blocks, masks, strict=True):
            block.attn_mask = mask

    return remove


def _multiply_faster() -> Callable[[], None] | None:
    """Put `products.linear` in the place of PyTorch's own, for all layers; returns what undoes it. None: no gain."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 4):
        return None
    from qprompt.prompted_clip import products

    if not products.onednn_is_faster():
        return None

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        plain = type(input) is Tensor  # not a subclass that has its own product
        return (products.linear if plain else products.linear_of_torch)(input, weight, bias)

    def restore() -> None:
        F.linear = products.linear_of_torch

    F.linear = linear
    return restore


def _state(encoder: Any, prompts: Tensor, deeper: tuple[Any, ...]) -> tuple[list[Tensor], list[int]]:
    """What the features depend on: the values given, and the versions of the encoder's own tensors."""
    given = [prompts, *(t for thing in deeper for t in ([thing] if isinstance(thing, Tensor) else thing))]
    own = [*encoder.parameters(), *encoder.buffers()]
    return [t.detach().clone() for t in given], [t._version for t in own]


def _same(a: tuple[list[Tensor], list[int]], b: tuple[list[Tensor], list[int]]) -> bool:
    return a[1] == b[1] and len(a[0]) == len(b[0]) and all(map(torch.equal, a[0], b[0]))


@contextlib.contextmanager
def _undisturbed(trainer: Any) -> Iterator[None]:
    """Restore the random state and the modes of all modules after the block."""
    modes = {module: module.training for model in trainer._models.values() for module in model.modules()}
    with random_state_kept():
        yield
    for module, training in modes.items():
        module.training = training
