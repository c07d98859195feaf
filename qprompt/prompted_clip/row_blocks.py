"""The rows of a `PromptLayout` for a GPU: in equal blocks, of which each starts with the rows that all classes share.

A class attends to rows of its own block only, so a block is computed like an item of a batch, in all layers, and
nothing is moved between layers. The shared rows are computed once in each block instead of once.
"""

from typing import Any

import torch
from torch import Tensor

from qprompt.io.transfer import send
from qprompt.prompted_clip.gpu_operations import aligned
from qprompt.prompted_clip.transformer_layer import attention

BLOCK_ROWS = 256  # attention then costs a tenth of the products with weights, as do 25 shared rows


class RowBlocks:
    """N blocks of S rows, padded with copies of row 0.

    Attributes:
        rows: (N * S, D) as in the layout.
        context_rows: the rows at which context vectors stand: first those in shared rows, block by block.
        context_positions: the position embeddings there.
        copies: N, how often a shared row is there.
        eot_rows: (C,) the row of each class's EOT.
    """

    def __init__(self, layout: Any, lengths: list[int], context_rows: Tensor):
        """Arrange the rows of a layout. Nothing waits for the device.

        Args:
            layout: The layout, on its device.
            lengths: Number of own rows per class.
            context_rows: Those of the layout, on the CPU.
        """
        source, owners = _fill(layout.n_shared, lengths)
        (self.copies, size), device = source.shape, layout.rows.device
        own = owners > 0
        place = torch.zeros(layout.n_shared + sum(lengths), dtype=torch.long)
        place[source[own]] = own.flatten().nonzero()[:, 0]
        shared = torch.arange(self.copies)[:, None] * size + context_rows[context_rows < layout.n_shared]
        context_rows = torch.cat([shared.flatten(), place[context_rows[context_rows >= layout.n_shared]]])
        eot_rows = place[layout.n_shared + torch.tensor(lengths).cumsum(0) - 1]
        self.rows = layout.rows.index_select(0, send(source.flatten(), device))
        self.context_rows, self.eot_rows = send(context_rows, device), send(eot_rows, device)
        self.context_positions = self.rows.index_select(0, self.context_rows)
        attends = (owners[:, :, None] == owners[:, None, :]) | (owners[:, None, :] == 0)
        attends &= torch.ones(size, size, dtype=torch.bool).tril()
        self._mask = send(torch.zeros(attends.shape).masked_fill(~attends, float("-inf"))[:, None], device)
        self._masks: dict[tuple[torch.dtype, int], Tensor] = {}

    def attention(self, dtype: torch.dtype, groups: int) -> Any:
        """Return attention among the rows: number of heads, queries, keys, values (G, N * S, D) -> (G, N * S, D).

        Args:
            dtype: Of the queries.
            groups: G.
        """
        mask = self.mask(dtype, groups)

        def attend(heads: int, *projected: Tensor) -> Tensor:
            query, key, value = (x.unflatten(1, (self.copies, -1)).flatten(0, 1) for x in projected)  # (G * N, S, D)
            return attention(heads, query, key, value, mask).unflatten(0, (groups, self.copies)).flatten(1, 2)

        return attend

    def mask(self, dtype: torch.dtype, groups: int) -> Tensor:
        """Return (G * N, 1, S, S), 0 where a row attends, else -inf; it is made once.

        None is dropped: a captured CUDA graph reads its mask where it lies.
        """
        key = dtype, groups
        if key not in self._masks:
            with torch.inference_mode(False):
                self._masks[key] = aligned(self._mask.to(dtype).repeat(groups, 1, 1, 1))
        return self._masks[key]


def _fill(n_shared: int, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Return the row of the layout and its owner at each place: (N, S). 0 owns the shared rows, -1 is padding."""
    size = max(BLOCK_ROWS, n_shared + max(lengths))
    blocks: list[list[tuple[int, int]]] = []  # (row, owner)
    row = n_shared
    for owner, length in enumerate(lengths, start=1):
        if not blocks or len(blocks[-1]) + length > size:
            blocks.append([(shared, 0) for shared in range(n_shared)])
        blocks[-1] += [(row + offset, owner) for offset in range(length)]
        row += length
    size = max(map(len, blocks))
    filled = torch.tensor([block + [(0, -1)] * (size - len(block)) for block in blocks])
    return filled[..., 0], filled[..., 1]
