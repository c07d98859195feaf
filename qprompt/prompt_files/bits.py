"""Indices of b bits <-> bytes: the first index in the lowest bits of the first byte."""

import numpy as np
import torch
from torch import Tensor


def pack_bits(indices: Tensor, bits: int) -> Tensor:
    """Pack indices below 2^bits (any shape, 1 to 8 bits) into `packed_size` bytes; unused bits at the end are 0."""
    flat = indices.detach().cpu().reshape(-1).to(torch.uint8).numpy()
    stream = np.unpackbits(flat[:, None], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(stream.reshape(-1), bitorder="little"))


def unpack_bits(packed: Tensor, bits: int, n: int) -> Tensor:
    """Return the n indices that `pack_bits` packed: (n,) uint8."""
    stream = np.unpackbits(packed.numpy(), count=n * bits, bitorder="little").reshape(n, bits)
    return torch.from_numpy(np.packbits(stream, axis=1, bitorder="little")[:, 0])
