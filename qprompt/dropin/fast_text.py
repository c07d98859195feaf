"""``--fast``: make a third-party CoOp-like trainer encode less text, if one batch shows that results stay the same.

CLIP's text attention is causal: a feature, read at the end-of-text token, does not depend on later tokens. Encoding up
to the longest prompt is therefore exact, and cheaper than all 77 positions. In evaluation the prompts are the same for
every batch, so their features are cached. Both changes are made in ``model.text_encoder``. On CPUs where oneDNN is
faster than PyTorch's own products, products with frozen weights use it.

Whether results stay the same is found on copies of the trainer: logits and gradients of one batch may differ by `LIMIT`
times the noise of the run, which is what changing each trained number by one rounding does to them. In half precision,
where such noise is visible, they may differ by one rounding of their largest entry, and no more.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprompt.quantization.forward_pass import all_in_forward
from qprompt.training.probe import copy_of, infer, probe_batch
from qprompt.training.selection import unwrapped

LIMIT = 8  # times the noise of the run


def speed_up(trainer: Any) -> str:
    """Install the fast path in `trainer` if it changes no result; return a line that says what was done."""
    encoder, tokens = _text_encoder(trainer)
    if encoder is None:
        return "--fast: there is no text_encoder with tokenized_prompts like CoOp's; the model runs unchanged"
    length, width = int(tokens.argmax(-1).max()) + 1, tokens.shape[-1]
    try:
        difference, noise, half = _compare(trainer, length)
    except Exception as error:  # third-party code may raise anything
        first_line = str(error).partition("\n")[0]
        return f"--fast: {type(error).__name__}: {first_line}; the model runs unchanged"
    allowed = half or LIMIT * noise
    measured = f"logits and gradients of one batch differ by {difference:.1e} of the largest"
    if not difference <= allowed < float("inf"):  # also for NaN
        least = "one rounding in half precision" if half else f"{LIMIT} times the noise of the run"
        return f"--fast: {measured}, more than {least} ({allowed:.1e}); the model runs unchanged"
    _shorten(encoder, length)
    products = "; products with frozen weights use oneDNN" if _use_onednn() is not None else ""
    times = "" if half or not noise else f", {difference / noise:.1f} times the noise of the run"
    done = f"text is encoded up to token {length} of {width}, and cached in evaluation{products}"
    return f"--fast: {done}; {measured}{times}"


def _text_encoder(trainer: Any) -> tuple[Any, Any]:
    """Return the text encoder and the tokens (C, 77) of a model like CoOp's, or (None, None)."""
    model = getattr(trainer, "model", None)
    model = unwrapped(model) if isinstance(model, nn.Module) else None
    encoder, tokens = getattr(model, "text_encoder", None), getattr(model, "tokenized_prompts", None)
    good = isinstance(encoder, nn.Module) and _is_causal(encoder) and isinstance(tokens, Tensor)
    return (encoder, tokens) if good else (None, None)


def _compare(trainer: Any, length: int) -> tuple[float, float, float]:
    """Compare the fast path with the trainer as it is, on copies.

    Returns:
        The largest difference of logits or gradients; the noise of the run; in half precision its rounding, else 0. All
        are relative to the largest entry of a tensor.
    """
    images = probe_batch(trainer)
    before, again = _results(copy_of(trainer), images), _results(copy_of(trainer), images)
    rounded = [_results(_moved_by_a_rounding(copy_of(trainer), sign), images) for sign in (1, -1)]
    noise = max(_largest(before, other) for other in (again, *rounded))
    fast = copy_of(trainer)
    _shorten(_text_encoder(fast)[0], length)
    restore_products = _use_onednn()
    try:
        difference = _largest(before, _results(fast, images))
    finally:
        if restore_products is not None:
            restore_products()
    halves = [t.dtype for t in before if t.dtype in (torch.float16, torch.bfloat16)]
    return difference, noise, max((torch.finfo(dtype).eps for dtype in halves), default=0.0)


def _moved_by_a_rounding(twin: Any, sign: int) -> Any:
    """Change each trained or quantized number of a copy by about one rounding, up or down in turn."""

    def moved(values: Tensor) -> Tensor:
        direction = torch.ones_like(values)
        direction.view(-1)[1::2] = -1
        return values * (1 + sign * torch.finfo(values.dtype).eps * direction)

    with torch.no_grad():
        for model in twin._models.values():
            for _, entry, owner, leaf in all_in_forward(model):
                weight: Any = owner._parameters[leaf]
                entry.held = moved(entry.values(weight).detach())
        for parameter in _trained(twin):
            parameter.data = moved(parameter.data)
    return twin


def _trained(trainer: Any) -> list[nn.Parameter]:
    return [p for model in trainer._models.values() for p in model.parameters() if p.requires_grad]


def _is_causal(encoder: nn.Module) -> bool:
    blocks = getattr(getattr(encoder, "transformer", None), "resblocks", ())
    masks = [getattr(block, "attn_mask", None) for block in blocks]
    if not (masks and isinstance(getattr(encoder, "positional_embedding", None), Tensor)):
        return False
    return all(
        isinstance(mask, Tensor) and bool(torch.isneginf(mask)[torch.ones_like(mask).triu(1).bool()].all())
        for mask in masks
    )


def _results(trainer: Any, images: Any) -> list[Tensor]:
    """Return what inference returns, with and without gradients, and the gradient of each trained parameter."""
    outputs = infer(trainer, images, gradients=True)
    parts = [tensor for tensor in outputs if tensor.requires_grad]
    weights = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype, device=t.device) for t in parts]
    total = sum((t.flatten() @ w).float() for t, w in zip(parts, weights, strict=True))
    gradients: Any = torch.autograd.grad(total, _trained(trainer), allow_unused=True) if parts else ()  # type: ignore
    twice = [tensor for _ in range(2) for tensor in infer(trainer, images)]  # computed, then cached
    return [*(t.detach() for t in outputs), *twice, *(gradient for gradient in gradients if gradient is not None)]


def _largest(a: list[Tensor], b: list[Tensor]) -> float:
    """Return the largest difference between lists of tensors, relative to the largest entry of each in `a`."""
    if len(a) != len(b):
        return float("inf")
    return max(map(_difference, a, b), default=0.0)


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    a, b = a.float(), b.float()
    return ((a - b).abs().max() / a.abs().max().clamp(min=1e-12)).item() if a.numel() else 0.0


class _ShortText:
    """Mixin before a text encoder's class: encodes the first `length` positions only, and caches in evaluation."""

    length: int
    cached: tuple[Any, Tensor] | None

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class exists in this process only: copies and pickles make it again.
        return _rebuilt, (type(self).__mro__[2],), {**vars(self), "cached": None}

    def forward(self, prompts: Tensor, *others: Any, **named: Any) -> Tensor:
        """Return text features (C, E) of prompts (C, 77, D); in evaluation the cached ones, if nothing changed."""
        key = None if torch.is_grad_enabled() else _cache_key(self, (prompts, others, named))
        if key is None:
            self.cached = None
        elif self.cached is not None and _equal_keys(key, self.cached[0]):
            return self.cached[1]
        # State dicts still hold the whole parameter; only this call reads a part of it.
        place: Any = self._parameters if "positional_embedding" in self._parameters else vars(self)  # type: ignore[attr-defined]
        position = place["positional_embedding"]
        place["positional_embedding"] = position[: self.length]
        try:
            features = super().forward(prompts[:, : self.length], *others, **named)  # type: ignore[misc]
        finally:
            place["positional_embedding"] = position
        if key is not None:
            self.cached = (key, features)
        return features


def _short_class(cls: type) -> type:
    return type(cls.__name__, (_ShortText, cls), {})


def _rebuilt(cls: type) -> Any:
    return object.__new__(_short_class(cls))


def _shorten(encoder: Any, length: int) -> Callable[[], None]:
    """Make `encoder` a `_ShortText`; return a function that undoes it."""
    cls, blocks = type(encoder), list(encoder.transformer.resblocks)
    masks = [block.attn_mask for block in blocks]
    for block, mask in zip(blocks, masks, strict=True):
        block.attn_mask = mask[:length, :length]
    # By its class, not by a patched method: a deep copy of the model then uses its own encoder.
    encoder.__class__ = _short_class(cls)
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


def _cache_key(encoder: Any, arguments: Any) -> tuple[list[Any], list[int]]:
    """Return what the features depend on: the values of the arguments and the versions of the encoder's tensors."""
    inputs = [part.detach().clone() if isinstance(part, Tensor) else part for part in _parts(arguments)]
    own = [*encoder.parameters(), *encoder.buffers()]
    return inputs, [t._version for t in own]


def _parts(thing: Any) -> Iterator[Any]:
    """Yield what nested lists, tuples and dicts hold, and the names in dicts."""
    if isinstance(thing, dict):
        yield from (*thing, *_parts(list(thing.values())))
    elif isinstance(thing, (list, tuple, nn.ParameterList)):
        for part in thing:
            yield from _parts(part)
    else:
        yield thing


def _equal_keys(a: tuple[list[Any], list[int]], b: tuple[list[Any], list[int]]) -> bool:
    return a[1] == b[1] and len(a[0]) == len(b[0]) and all(map(_equal, a[0], b[0]))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return bool(a == b)
