"""One layer of CLIP's transformer, with the modules of the clip model as they are and the order of arithmetic ours."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprompt.prompted_clip.products import linear

LINEAR = nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear  # the second is what attention has


def layer(block: Any, x: Tensor, attend: Callable[..., Tensor], keep: Any = None) -> Tensor:
    """A residual attention block on rows x (B, n, D).

    `attend` maps the number of heads, queries (B, m, D), keys and values (B, n, D) to what each query has gathered,
    (B, m, D). `keep` selects the m rows whose result is read further on: the others are keys and values only.
    """
    attn, width = block.attn, x.shape[-1]
    normed = block.ln_1(x)

    def project(x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Those of queries, keys, values from `first` to `last`, each (B, n, D)."""
        rows = slice(first * width, last * width)
        return linear(x, attn.in_proj_weight[rows], attn.in_proj_bias[rows]).split(width, dim=-1)

    if keep is None:
        out = attend(attn.num_heads, *project(normed, 0, 3))
    else:
        x, out = x[:, keep], attend(attn.num_heads, *project(normed[:, keep], 0, 1), *project(normed, 1, 3))
    x = x + _apply(attn.out_proj, out)
    hidden = block.ln_2(x)
    for module in block.mlp:
        hidden = _apply(module, hidden)
    return x + hidden


def attention(heads: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Queries (B, m, D), keys and values (B, n, D) -> (B, m, D). `mask` is added to the scores."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(-2)


def _apply(module: Any, x: Tensor) -> Tensor:
    """``module(x)``; where nobody has put anything into the module, in fewer operations or through a faster library."""
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return module(x)
    if type(module) in LINEAR:
        return linear(x, module.weight, module.bias)
    return _QuickGELU.apply(x) if type(module).__name__ == "QuickGELU" else module(x)


class _QuickGELU(torch.autograd.Function):
    """x * sigmoid(1.702 x), which is silu(1.702 x) / 1.702: backward the factors cancel, and x is all that is kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (1.702 * x).sigmoid_().mul_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return torch.ops.aten.silu_backward(grad, 1.702 * ctx.saved_tensors[0])
