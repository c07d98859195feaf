"""``--fast``: make a third-party CoOp-like trainer encode less text, if one batch shows that results stay the same.

CLIP's text attention is causal: a feature, read at the end-of-text token, does not depend on later tokens. Encoding up
to the longest prompt is therefore exact, and cheaper than all 77 positions. In evaluation the prompts are the same for
every batch, so their features are cached. Both changes are made in ``model.text_encoder``. On CPUs where oneDNN is
faster than PyTorch's own products, products with frozen weights use it. All changes are undone unless logits and
gradients of one batch equal the original ones up to rounding.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprompt.io.random_state import random_state_kept
from qprompt.training.selection import unwrapped

TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1}  # relative to the largest entry; float32: 1e-4


def speed_up(trainer: Any) -> str:
    """Install the fast path in `trainer` if it changes no result; return a line that says what was done."""
    model = getattr(trainer, "model", None)
    model = unwrapped(model) if isinstance(model, nn.Module) else None
    encoder, tokens = getattr(model, "text_encoder", None), getattr(model, "tokenized_prompts", None)
    if not (isinstance(encoder, nn.Module) and _is_causal(encoder) and isinstance(tokens, Tensor)):
        return "--fast: there is no text_encoder with tokenized_prompts like CoOp's; the model runs unchanged"
    length, width = int(tokens.argmax(-1).max()) + 1, tokens.shape[-1]
    with _preserved_state(trainer):
        image = next(iter(trainer.test_loader))["img"].to(trainer.device)
        before = _results(trainer, image)
        lengthen, restore_products = _shorten(encoder, length), _use_onednn()

        def undo() -> None:
            lengthen()
            if restore_products is not None:
                restore_products()

        try:
            differences = list(map(_difference, before, _results(trainer, image)))
        except Exception as error:  # a third-party encoder may raise anything
            undo()
            first_line = str(error).partition("\n")[0]
            return f"--fast: {type(error).__name__}: {first_line}; the model runs unchanged"
    tolerance = TOLERANCE.get(before[0].dtype, 1e-4)
    if not all(difference <= tolerance for difference in differences):  # also false for NaN
        undo()
        return f"--fast: logits or gradients differ by {max(differences):.1e} of the largest; the model runs unchanged"
    products = "; products with frozen weights use oneDNN" if restore_products is not None else ""
    return (
        f"--fast: text is encoded up to token {length} of {width}, and cached in evaluation{products}; logits and "
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


def _results(trainer: Any, image: Tensor) -> list[Tensor]:
    """Return logits (B, C) of a batch, with and without gradients, and the gradient of each trained parameter."""
    trainer.set_model_mode("eval")
    with torch.enable_grad():
        logits = trainer.model_inference(image)
        weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype, device=logits.device)
        parameters = [p for model in trainer._models.values() for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(logits.flatten() @ weights, parameters, allow_unused=True)
    with torch.no_grad():
        twice = [trainer.model_inference(image) for _ in range(2)]  # computed, then cached
    return [logits.detach(), *twice, *(gradient for gradient in gradients if gradient is not None)]


def _difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, relative to the largest entry of `a`."""
    a, b = a.float(), b.float()
    return ((a - b).abs().max() / a.abs().max().clamp(min=1e-12)).item()


class _ShortText:
    """Mixin before a text encoder's class: encodes the first `length` positions only, and caches in evaluation."""

    length: int
    cached: tuple[Any, Tensor] | None

    def forward(self, prompts: Tensor, tokenized_prompts: Tensor, *deeper: Any) -> Tensor:
        """Return text features (C, E) of prompts (C, 77, D); in evaluation the cached ones, if nothing changed."""
        key = None if torch.is_grad_enabled() else _cache_key(self, prompts, deeper)
        if key is None:
            self.cached = None
        elif self.cached is not None and _equal_keys(key, self.cached[0]):
            return self.cached[1]
        # State dicts still hold the whole parameter; only this call reads a part of it.
        place: Any = self._parameters if "positional_embedding" in self._parameters else vars(self)  # type: ignore[attr-defined]
        position = place["positional_embedding"]
        place["positional_embedding"] = position[: self.length]
        try:
            features = super().forward(prompts[:, : self.length], tokenized_prompts, *deeper)  # type: ignore[misc]
        finally:
            place["positional_embedding"] = position
        if key is not None:
            self.cached = (key, features)
        return features


def _shorten(encoder: Any, length: int) -> Callable[[], None]:
    """Make `encoder` a `_ShortText`; return a function that undoes it."""
    cls, blocks = type(encoder), list(encoder.transformer.resblocks)
    masks = [block.attn_mask for block in blocks]
    for block, mask in zip(blocks, masks, strict=True):
        block.attn_mask = mask[:length, :length]
    # By its class, not by a patched method: a deep copy of the model then uses its own encoder.
    encoder.__class__ = type(cls.__name__, (_ShortText, cls), {})
    encoder.length, encoder.cached = length, None

    def lengthen() -> None:
        encoder.__class__ = cls
        del encoder.length, encoder.cached
        for block, mask in zip(blocks, masks, strict=True):
            block.attn_mask = mask

    return lengthen


def _use_onednn() -> Callable[[], None] | None:
    """Replace ``F.linear`` by `onednn_linear.linear`; return a function that undoes it, or None if not faster."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 4):
        return None
    from qprompt.prompted_clip import onednn_linear

    if not onednn_linear.onednn_is_faster():
        return None

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        plain = type(input) is Tensor  # a subclass may define its own product
        return (onednn_linear.linear if plain else onednn_linear.torch_linear)(input, weight, bias)

    def restore() -> None:
        F.linear = onednn_linear.torch_linear

    F.linear = linear
    return restore


def _cache_key(encoder: Any, prompts: Tensor, deeper: tuple[Any, ...]) -> tuple[list[Tensor], list[int]]:
    """Return what the features depend on: the values of the inputs and the versions of the encoder's tensors."""
    inputs = [prompts, *(t for thing in deeper for t in ([thing] if isinstance(thing, Tensor) else thing))]
    own = [*encoder.parameters(), *encoder.buffers()]
    return [t.detach().clone() for t in inputs], [t._version for t in own]


def _equal_keys(a: tuple[list[Tensor], list[int]], b: tuple[list[Tensor], list[int]]) -> bool:
    return a[1] == b[1] and len(a[0]) == len(b[0]) and all(map(torch.equal, a[0], b[0]))


@contextlib.contextmanager
def _preserved_state(trainer: Any) -> Iterator[None]:
    """Restore the random states and the modes of the modules on exit."""
    modes = {module: module.training for model in trainer._models.values() for module in model.modules()}
    with random_state_kept():
        yield
    for module, training in modes.items():
        module.training = training
