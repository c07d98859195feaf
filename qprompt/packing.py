"""The prompt file: bit-packed indices and half-precision levels, in the safetensors format.

See docs/prompt_file.md. A file is checked before anything is allocated from what it claims.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qprompt import __version__
from qprompt.errors import UserError
from qprompt.fake_quant import quantized_parameters


def pack_bits(indices: Tensor, bits: int) -> Tensor:
    """Indices below 2^bits -> ceil(bits * n / 8) bytes, the first index in the lowest bits."""
    flat = indices.reshape(-1).to(torch.uint8)
    planes = (flat[:, None] >> torch.arange(bits, dtype=torch.uint8)) & 1
    stream = planes.reshape(-1)
    stream = torch.cat([stream, stream.new_zeros(-len(stream) % 8)]).reshape(-1, 8)
    return (stream << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, bits: int, n: int) -> Tensor:
    """The inverse of `pack_bits`: n indices, uint8."""
    stream = ((packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).reshape(-1)[: bits * n]
    return (stream.reshape(n, bits) << torch.arange(bits, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


@torch.no_grad()
def save(module: nn.Module, path: str | os.PathLike[str], **metadata: Any) -> None:
    """Write the quantized tensors of `module`, and its other trainable ones in half precision, to a prompt file."""
    tensors: dict[str, Tensor] = {}
    about: dict[str, Any] = {}
    for name, (fake, weight) in quantized_parameters(module).items():
        indices, levels = fake.encode(weight)[:2]
        tensors[f"{name}:i"] = pack_bits(indices.cpu(), fake.config.bits)
        tensors[f"{name}:l"] = levels.cpu()
        about[name] = [fake.config.bits, list(weight.shape), str(weight.dtype).removeprefix("torch.")]
    header = {"version": 1, "qprompt": __version__, "tensors": about, **metadata}
    save_file(tensors, Path(path), {"qprompt": json.dumps(header, separators=(",", ":"))})


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Name -> tensor, exactly as the module that was saved computed with them."""
    about, tensors = inspect(path)["tensors"], load_file(path)
    out = {}
    for name, (bits, shape, dtype) in about.items():
        n = torch.Size(shape).numel()
        indices = unpack_bits(tensors[f"{name}:i"], bits, n).long()
        levels = tensors[f"{name}:l"]
        out[name] = levels.gather(1, indices.reshape(len(levels), -1)).reshape(shape).to(getattr(torch, dtype))
    return out


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a prompt file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if "qprompt" not in metadata:
        raise UserError(f"{path} is no prompt file")
    return json.loads(metadata["qprompt"])
