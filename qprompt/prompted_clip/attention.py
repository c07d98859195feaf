"""One layer of CLIP's transformer on rows, and its attention, computed only where it is needed.

The modules of the clip model are used as they are; only the order of the arithmetic is ours.
G: prompt sets (1, or one an image), C: classes, P: shared rows, S: longest own part, R: rows, H: heads,
d: width of a head, D = H * d.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mlp(block: Any, x: Tensor) -> Tensor:
    """``block.mlp(x)``. x * sigmoid(1.702 x) is written as silu(1.702 x) / 1.702: half the memory backward."""
    if type(block.mlp.gelu).__name__ != "QuickGELU":
        return block.mlp(x)
    hidden = block.mlp.c_fc(x).mul_(1.702)
    return block.mlp.c_proj(F.silu(hidden).div_(1.702))


def project(block: Any, x: Tensor, first: int, last: int) -> Tensor:
    """Parts `first` up to `last` of query (0), key (1) and value (2) of rows x (..., D) -> (..., parts * D)."""
    width = x.shape[-1]
    part = slice(first * width, last * width)
    return F.linear(x, block.attn.in_proj_weight[part], block.attn.in_proj_bias[part])


def heads(x: Tensor, n_parts: int, n_heads: int) -> tuple[Tensor, ...]:
    """(G, ..., n, n_parts * D) -> n_parts times (G, H, ..., n, d)."""
    x = x.unflatten(-1, (n_parts, n_heads, -1))  # (G, ..., n, parts, H, d)
    return tuple(part.movedim(-2, 1) for part in x.unbind(-3))


def attend_own(
    query: Tensor,  # (G, H, C, s, d)
    shared_key: Tensor,  # (G, H, P, d)
    shared_value: Tensor,  # (G, H, P, d)
    own_key: Tensor,  # (G, H, C, S, d)
    own_value: Tensor,  # (G, H, C, S, d)
    mask: Tensor,  # additive, broadcastable to (C, s, S)
) -> Tensor:
    """Each class's queries attend to the shared rows and to the class's own: (G, C, s, D).

    The shared keys and values are never copied a class.
    """
    G, H, C, s, d = query.shape
    P = shared_key.shape[-2]
    query = query * d**-0.5
    to_shared = (query.reshape(G, H, C * s, d) @ shared_key.transpose(-1, -2)).view(G, H, C, s, P)
    to_own = query @ own_key.transpose(-1, -2) + mask
    weight = torch.cat([to_shared, to_own], dim=-1).softmax(dim=-1).to(query.dtype)
    from_shared = (weight[..., :P].reshape(G, H, C * s, P) @ shared_value).view(G, H, C, s, d)
    out = from_shared + weight[..., P:] @ own_value
    return out.movedim(1, -2).flatten(-2)


def causal_mask(size: int, like: Tensor) -> Tensor:
    """(size, size), 0 where a query may look and -inf above the diagonal."""
    return torch.full((size, size), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)
