"""Indices of b bits <-> bytes: the first index in the lowest bits of the first byte."""

import numpy as np
import torch
from torch import Tensor


def packed_size(n: int, bits: int) -> int:
    """Bytes that n indices of `bits` bits take."""
    return -(-n * bits // 8)


def pack_bits(indices: Tensor, bits: int) -> Tensor:
    """Indices below 2^bits, any shape, bits 1 to 8 -> `packed_size` bytes, uint8; unused bits at the end are 0."""
    flat = indices.detach().cpu().reshape(-1).to(torch.uint8).numpy()
    stream = np.unpackbits(flat[:, None], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(stream.reshape(-1), bitorder="little"))


def unpack_bits(packed: Tensor, bits: int, n: int) -> Tensor:
    """The inverse of `pack_bits`: (n,) uint8."""
    stream = np.unpackbits(packed.numpy(), count=n * bits, bitorder="little").reshape(n, bits)
    return torch.from_numpy(np.packbits(stream, axis=1, bitorder="little")[:, 0])
