"""Rows of prompts packed into blocks on a CPU, so that attention computes few pairs of rows that are masked out."""

from typing import Any

import torch
from torch import Tensor

SINGLE_BLOCK_ROWS = 128  # up to here, masked-out pairs cost less than packing
BLOCK_ROWS = 48  # large enough for efficient matrix products, small enough that masked-out pairs cost little


def pack_rows(n_shared: int, lengths: list[int]) -> dict[str, Tensor]:
    """Pack the rows of a `PromptLayout` into blocks.

    A row attends to the shared rows and to earlier rows of its own class. More than `SINGLE_BLOCK_ROWS` rows are packed
    into blocks of at most `BLOCK_ROWS`, without splitting a class; the shared rows precede each block as keys and
    values. Otherwise there is a single block with all rows.

    Args:
        n_shared: P, the number of rows that all classes share; they come first.
        lengths: Number of own rows per class.

    Returns:
        For R rows and N blocks of S rows (the last ones of a block may be padding):

        - pack_index: (N * S,) the row at each position in the blocks; padding is row 0.
        - unpack_index: (R,) the position of each row in the blocks.
        - key_pack_index, key_unpack_index: the same for keys and values, with the shared rows in front of each block:
          (N * (P + S),) and (R,).
        - mask: (N, 1, S, P + S) 0 where a row attends, else -inf; (R, R) for a single block.
    """
    size = max(BLOCK_ROWS if n_shared + sum(lengths) > SINGLE_BLOCK_ROWS else SINGLE_BLOCK_ROWS, n_shared, *lengths)
    contents: list[list[int]] = [[]]  # of each block: the owner of each row; 0 owns the shared rows
    for owner, length in enumerate([n_shared, *lengths]):
        if len(contents[-1]) + length > size:
            contents.append([])
        contents[-1] += [owner] * length
    size = max(map(len, contents))
    owners = torch.tensor([block + [-1] * (size - len(block)) for block in contents])  # (N, S), -1: padding
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    attends = (owners[:, :, None] == owners[:, None, :]) & causal  # (N, S, S): padding attends to padding: finite
    if len(contents) == 1:
        attends = (attends | (owners[:, None, :] == 0) & causal)[0]
    else:
        shared = (owners > 0)[..., None].expand(-1, -1, n_shared)
        attends = torch.cat([shared, attends], dim=-1)[:, None]
    filled = owners >= 0
    pack_index = torch.where(filled, filled.flatten().cumsum(0).view(filled.shape) - 1, 0)
    shared_rows = torch.arange(n_shared).expand(len(contents), -1)
    return {
        "pack_index": pack_index.flatten(),
        "unpack_index": filled.flatten().nonzero()[:, 0],
        "key_pack_index": torch.cat([shared_rows, pack_index], dim=1).flatten(),
        "key_unpack_index": torch.cat([shared_rows < 0, filled], dim=1).flatten().nonzero()[:, 0],
        "mask": torch.zeros(attends.shape).masked_fill(~attends, float("-inf")),
    }


class Pack(torch.autograd.Function):
    """Rows (G, R, D) -> blocks (G * N, S, D), with the first `n_shared` rows in front of each block.

    Backward, a row gets the gradient of its position in the blocks, a shared row the sum over all blocks, and padding
    is left out. Unlike the gradient of ``index_select``, this does not add to a tensor of zeros, and a GPU sums in the
    same order every time.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, pack_index: Tensor, unpack_index: Tensor, n_blocks: int, n_shared: int) -> Tensor:
        return rows.index_select(1, pack_index).unflatten(1, (n_blocks, -1)).flatten(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, unpack_index, ctx.n_blocks, ctx.n_shared = inputs
        ctx.save_for_backward(unpack_index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        n_blocks, n_shared = ctx.n_blocks, ctx.n_shared
        grad = grad.unflatten(0, (grad.shape[0] // n_blocks, n_blocks))  # (G, N, S, D)
        rows = grad.flatten(1, 2).index_select(1, *ctx.saved_tensors)
        if n_shared:
            rows[:, :n_shared].add_(grad[:, :, :n_shared].sum(1))
        return rows, None, None, None, None


class Unpack(torch.autograd.Function):
    """Blocks (G, N * S, D) -> rows (G, R, D).

    Backward, padding gets the gradient of row 0. It affects only other padding, which no row attends to and which
    `Pack` leaves out.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, unpack_index: Tensor, pack_index: Tensor) -> Tensor:
        return x.index_select(1, unpack_index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(1, *ctx.saved_tensors), None, None
