"""One layer of CLIP's transformer, computed from its unmodified modules for the rows that are needed."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprompt.prompted_clip.gpu_operations import STEEPNESS, has_hooks, layer_norm, mlp
from qprompt.prompted_clip.onednn_linear import linear

LINEAR = nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear  # the second is attention's out_proj


def transformer_layer(
    resblock: Any, x: Tensor, attend: Callable[..., Tensor], select: Any = None, select_queries: bool = True
) -> Tensor:
    """Compute a residual attention block.

    Args:
        resblock: A `clip.model.ResidualAttentionBlock`.
        x: (B, n, D) rows.
        attend: Maps the number of heads, queries (B, m, D), keys and values (B, n, D) to (B, m, D).
        select: A slice or the numbers (m,) of the rows whose result is needed; the others serve as keys and values
            only. None: all rows.
        select_queries: Whether `attend` gets the queries of the m rows only; otherwise of all rows.

    Returns:
        (B, m, D)
    """
    attn, width = resblock.attn, x.shape[-1]
    normed = layer_norm(resblock.ln_1, x)

    def project(x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Queries (0), keys (1), values (2) from `first` to `last` - 1, each (B, n, D)."""
        rows = slice(first * width, last * width)
        return linear(x, attn.in_proj_weight[rows], attn.in_proj_bias[rows]).split(width, dim=-1)

    if select is None or not select_queries:
        out = attend(attn.num_heads, *project(normed, 0, 3))
    else:
        query = project(_rows(normed, select), 0, 1)
        x, out = _rows(x, select), attend(attn.num_heads, *query, *project(normed, 1, 3))
    x = x + _apply(attn.out_proj, out)
    if select is not None and not select_queries:
        x = _rows(x, select)
    hidden = layer_norm(resblock.ln_2, x)
    fused = None if has_hooks(resblock.mlp) else mlp(resblock.mlp, hidden)
    if fused is not None:
        return x + fused
    for module in resblock.mlp:
        hidden = _apply(module, hidden)
    return x + hidden


def attention(heads: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute multi-head attention: queries (B, m, D), keys and values (B, n, D) -> (B, m, D).

    `mask` is added to the scores; its shape broadcasts to (B, heads, m, n).
    """
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(-2)


def _rows(x: Tensor, select: Any) -> Tensor:
    # Not x[:, select], whose gradient sorts the numbers of the rows.
    return x.index_select(1, select) if isinstance(select, Tensor) else x[:, select]


def _apply(module: Any, x: Tensor) -> Tensor:
    """``module(x)``; if it has no hooks, in fewer operations or through a faster library."""
    if has_hooks(module):
        return module(x)
    if type(module) in LINEAR:
        return linear(x, module.weight, module.bias)
    return _QuickGELU.apply(x) if type(module).__name__ == "QuickGELU" else module(x)


class _QuickGELU(torch.autograd.Function):
    """x * sigmoid(1.702 x) = silu(1.702 x) / 1.702: in the gradient the factors cancel, and only x is saved."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (STEEPNESS * x).sigmoid_().mul_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.ops.aten.silu_backward(grad, STEEPNESS * ctx.saved_tensors[0])
