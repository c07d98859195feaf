"""The prompt file: learned prompts as packed indices and half-precision levels (docs/prompt_file.md).

It is a safetensors file with one JSON string of metadata, which `parsing` reads without trusting it.
"""

import json
import math
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from qprompt.errors import UserError
from qprompt.io.files import atomic_open
from qprompt.prompt_files import parsing
from qprompt.prompt_files.bits import pack_bits, unpack_bits
from qprompt.prompt_files.metadata import check_metadata

DTYPES = {name: getattr(torch, name) for name in parsing.DTYPES}
WHOLE = {bits: (entry, getattr(torch, f"float{bits}")) for bits, entry in parsing.WHOLE.items()}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the file: indices and levels with 1 to 8 bits, values with 16 or 32.

    Attributes:
        shape, dtype: of the tensor as it was trained.
        bits: per entry.
        values: (N,) or `shape`.
        indices: (N,) uint8.
        levels: (G, 2^bits) float16.
    """

    shape: tuple[int, ...]
    dtype: str
    bits: int
    values: Tensor | None = None
    indices: Tensor | None = None
    levels: Tensor | None = None

    @property
    def groups(self) -> int:
        return 0 if self.levels is None else len(self.levels)

    def tensor(self) -> Tensor:
        """Return the values that the prompt was used with, in its shape and type."""
        if self.levels is None or self.indices is None:
            assert self.values is not None
            return self.values.to(DTYPES[self.dtype]).reshape(self.shape)
        levels = self.levels.to(DTYPES[self.dtype])
        return levels.gather(1, self.indices.long().view(self.groups, -1)).reshape(self.shape)

    @property
    def payload_bytes(self) -> int:
        return parsing.payload_bytes(self.shape, self.bits, self.groups)

    def entries(self, name: str) -> dict[str, Tensor]:
        """Return the safetensors entries of this tensor."""
        if self.levels is None or self.indices is None:
            assert self.values is not None
            entry, dtype = WHOLE[self.bits]
            return {f"{entry}/{name}": self.values.to(dtype).cpu().contiguous()}
        return {f"indices/{name}": pack_bits(self.indices, self.bits), f"levels/{name}": self.levels.cpu().contiguous()}


class PromptFile(NamedTuple):
    """A valid file: its tensors by name, its metadata (`about`) without the descriptions of tensors, and its size."""

    tensors: dict[str, StoredTensor]
    about: dict[str, Any]
    file_bytes: int


def write_prompt_file(path: str | os.PathLike[str], tensors: dict[str, StoredTensor], about: dict[str, Any]) -> None:
    """Write a prompt file atomically.

    Args:
        path: of the file.
        tensors: by name.
        about: metadata, anything that JSON can hold; None is left out.

    Raises:
        UserError: `read_prompt_file` would refuse the file. Nothing is written then.
    """
    described = {}
    for name, t in tensors.items():
        described[name] = {"bits": t.bits, "shape": list(t.shape), "dtype": t.dtype, "groups": t.groups}
    unwritten = f"{path} was not written, since it could not be read"
    try:
        given = json.loads(json.dumps({k: v for k, v in about.items() if v is not None}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"the metadata of a prompt file must be JSON: {error}") from None
    reserved = sorted({"format", "tensors", "checksum"} & given.keys())
    if reserved:
        raise UserError(f"metadata of a prompt file cannot be named {', '.join(reserved)}: choose another name.")
    try:
        check_metadata(given)
    except ValueError as problem:
        raise UserError(f"{unwritten}: {problem}") from None
    header = {"format": parsing.FORMAT, **given, "tensors": described}
    entries = {key: value for name, tensor in tensors.items() for key, value in tensor.entries(name).items()}
    bare = to_safetensors(entries)
    start = 8 + int.from_bytes(bare[:8], "little")
    header["checksum"] = parsing.checksum(header, json.loads(bare[8:start]), bare[start:])
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    # A lone surrogate, from a file name that is not UTF-8, is written as JSON's escape for it.
    data = to_safetensors(entries, {"qprompt": text.encode("utf-8", "backslashreplace").decode()})
    try:
        parsing.parse(data)  # the reader's rules, before anything is written
    except parsing.Invalid as problem:
        raise UserError(f"{unwritten}: {problem}") from None
    with atomic_open(path) as file:
        file.write(data)


def read_prompt_file(path: str | os.PathLike[str]) -> PromptFile:
    """Read and check a prompt file (see `parsing.parse_file`)."""
    return as_tensors(parsing.parse_file(path))


def as_tensors(file: parsing.ParsedFile) -> PromptFile:
    """Return a parsed file with PyTorch's tensors."""
    return PromptFile({name: _stored(t) for name, t in file.tensors.items()}, file.about, file.file_bytes)


def _stored(t: parsing.ParsedTensor) -> StoredTensor:
    if t.packed is None or t.levels is None:
        assert t.values is not None
        return StoredTensor(t.shape, t.dtype, t.bits, values=torch.from_numpy(t.values.copy()))
    indices = unpack_bits(torch.from_numpy(t.packed.copy()), t.bits, math.prod(t.shape))
    return StoredTensor(t.shape, t.dtype, t.bits, indices=indices, levels=torch.from_numpy(t.levels.copy()))
