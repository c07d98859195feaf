"""One layer of CLIP's transformer, with the modules of the clip model as they are and the order of arithmetic ours."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from qprompt.prompted_clip.products import linear


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
    x = x + linear(out, attn.out_proj.weight, attn.out_proj.bias)
    return x + _mlp(block, block.ln_2(x))


def attention(heads: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Queries (B, m, D), keys and values (B, n, D) -> (B, m, D). `mask` is added to the scores."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(-2)


def _mlp(block: Any, x: Tensor) -> Tensor:
    """``block.mlp(x)``."""
    up, activation, down = block.mlp.c_fc, block.mlp.gelu, block.mlp.c_proj
    if type(activation).__name__ == "QuickGELU":
        activation = _QuickGELU.apply
    return linear(activation(linear(x, up.weight, up.bias)), down.weight, down.bias)


class _QuickGELU(torch.autograd.Function):
    """x * sigmoid(1.702 x), as silu(1.702 x) / 1.702: half the memory for backward, where the factors cancel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scaled = 1.702 * x
        ctx.save_for_backward(scaled)
        return F.silu(scaled).div_(1.702)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return torch.ops.aten.silu_backward(grad, *ctx.saved_tensors)
