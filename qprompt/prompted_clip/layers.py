"""One layer of CLIP's transformer, with the modules of the clip model as they are and the order of arithmetic ours."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def layer(block: Any, x: Tensor, attend: Callable[..., Tensor], keep: Any = None) -> Tensor:
    """A residual attention block on rows x (B, n, D).

    `attend` maps queries (B, H, m, d), keys and values (B, H, n, d) to what each query has gathered, (B, m, D).
    `keep` selects the m rows whose result is read further on: the others are keys and values only.
    """
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    normed = block.ln_1(x)

    def heads(x: Tensor, first: int, last: int) -> Tensor:
        """Rows `first` to `last` of queries, keys, values: (B, n, D) -> (last - first, B, H, n, d)."""
        width = x.shape[-1]
        rows = slice(first * width, last * width)
        out = F.linear(x, weight[rows], bias[rows])
        return out.unflatten(-1, (last - first, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)

    if keep is None:
        out = attend(*heads(normed, 0, 3))
    else:
        x, out = x[:, keep], attend(*heads(normed[:, keep], 0, 1), *heads(normed, 1, 3))
    x = x + block.attn.out_proj(out)
    return x + _mlp(block, block.ln_2(x))


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, H, n, d) each -> (B, n, D). `mask` is added to the scores."""
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out.transpose(1, 2).flatten(-2)


def _mlp(block: Any, x: Tensor) -> Tensor:
    """``block.mlp(x)``. QuickGELU, x * sigmoid(1.702 x), as silu(1.702 x) / 1.702: half the memory for backward."""
    if type(block.mlp.gelu).__name__ != "QuickGELU":
        return block.mlp(x)
    hidden = block.mlp.c_fc(x).mul_(1.702)
    return block.mlp.c_proj(F.silu(hidden).div_(1.702))
