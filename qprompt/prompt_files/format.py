"""The prompt file: learned prompts as packed indices and half-precision levels (docs/prompt_file.md).

It is a safetensors file with one JSON string of metadata. The reader does not trust the file: every size that it claims
is checked against the true size before memory is allocated, and any contradiction is a UserError.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from qprompt.errors import UserError
from qprompt.io.files import atomic_open
from qprompt.prompt_files.bits import pack_bits, packed_size, unpack_bits
from qprompt.prompt_files.hub import downloaded, is_hub_address
from qprompt.prompt_files.metadata import check_metadata

FORMAT = 1
DTYPES = {str(t).removeprefix("torch."): t for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
# Bits of tensors that are stored without a codebook: name and type of their entry.
WHOLE = {16: ("half", torch.float16), 32: ("full", torch.float32)}
LARGEST_HEADER = 2**24


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
        n = math.prod(self.shape)
        return n * self.bits // 8 if self.bits in WHOLE else packed_size(n, self.bits) + 2 * self.groups * 2**self.bits

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
    header = {"format": FORMAT, **given, "tensors": described}
    entries = {key: value for name, tensor in tensors.items() for key, value in tensor.entries(name).items()}
    bare = to_safetensors(entries)
    start = 8 + int.from_bytes(bare[:8], "little")
    header["checksum"] = _checksum(header, json.loads(bare[8:start]), bare[start:])
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    # A lone surrogate, from a file name that is not UTF-8, is written as JSON's escape for it.
    data = to_safetensors(entries, {"qprompt": text.encode("utf-8", "backslashreplace").decode()})
    try:
        _parse(data)  # the reader's rules, before anything is written
    except _Invalid as problem:
        raise UserError(f"{unwritten}: {problem}") from None
    with atomic_open(path) as file:
        file.write(data)


def read_prompt_file(path: str | os.PathLike[str]) -> PromptFile:
    """Read and check a prompt file, or one at ``hf://USER/NAME`` on the Hugging Face Hub (`hub.downloaded`).

    UserError if it is damaged, inconsistent, of a newer format, or something else.
    """
    path = downloaded(path) if isinstance(path, str) and is_hub_address(path) else Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    try:
        return _parse(data)
    except _Invalid as problem:
        raise UserError(f"{path} is not a valid prompt file: {problem}") from None


class _Invalid(Exception):
    pass


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise _Invalid(problem)


def _parse(data: bytes) -> PromptFile:
    length = int.from_bytes(data[:8], "little")
    _require(len(data) >= 8 and length <= LARGEST_HEADER, "it does not begin as a safetensors file does")
    start = 8 + length
    _require(start <= len(data), "it is truncated")
    outer = _object(data[8:start], "header")
    metadata = outer.pop("__metadata__", None)
    _require(isinstance(metadata, dict) and isinstance(metadata.get("qprompt"), str), "it has no qprompt metadata")
    about = _object(metadata["qprompt"], "metadata")
    version: Any = about.get("format")
    _require(_is_count(version) and version > 0, "it does not name its format version")
    newer = f"it has format {version}, this version of qprompt reads up to {FORMAT}; update qprompt"
    _require(version <= FORMAT, newer)
    blobs = _blobs(outer, data, start)
    checksum = about.pop("checksum", None)
    _require(checksum == _checksum(about, outer, data[start:]), "its checksum is wrong, so it is damaged")
    described = about.pop("tensors", None)
    _require(isinstance(described, dict) and bool(described), "it names no tensors")
    tensors = {name: _tensor(name, entry, blobs) for name, entry in described.items()}
    _require(not blobs, f"it holds {', '.join(list(blobs)[:3])}, which its metadata does not name")
    try:
        check_metadata(about)
    except ValueError as problem:
        raise _Invalid(str(problem)) from None
    return PromptFile(tensors, about, len(data))


def _object(text: bytes | str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    _require(isinstance(value, dict), f"its {what} cannot be read")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _blobs(outer: dict[str, Any], data: bytes, start: int) -> dict[str, tuple[str, bytes]]:
    """Return entry -> (type, bytes). Together they must be all that follows the header, without gap or overlap."""
    spans = []
    for key, entry in outer.items():
        ends: Any = entry.get("data_offsets") if isinstance(entry, dict) else None
        valid = isinstance(ends, list) and len(ends) == 2 and all(map(_is_count, ends))
        _require(valid and isinstance(entry.get("shape"), list), "an entry of its header is malformed")
        spans.append((ends[0], ends[1], key, entry.get("dtype")))
    blobs, at = {}, 0
    for low, high, key, dtype in sorted(spans, key=lambda span: span[:2]):
        _require(low == at and low <= high <= len(data) - start, "its header does not agree with its size")
        blobs[key], at = (dtype, data[start + low : start + high]), high
    _require(at == len(data) - start, "its header does not agree with its size")
    return blobs


def _tensor(name: str, entry: Any, blobs: dict[str, tuple[str, bytes]]) -> StoredTensor:
    _require(isinstance(entry, dict), f"what it says of {name} cannot be read")
    bits, shape, dtype, groups = (entry.get(key) for key in ("bits", "shape", "dtype", "groups"))
    known = (*range(1, 9), *WHOLE)
    _require(_is_count(bits) and bits in known, f"{name} has {bits!r} bits, expected 1 to 8, 16 or 32")
    _require(isinstance(shape, list) and len(shape) <= 8 and all(map(_is_count, shape)), f"{name} has an invalid shape")
    _require(isinstance(dtype, str) and dtype in DTYPES, f"{name} has type {dtype!r}, expected {', '.join(DTYPES)}")
    n = math.prod(shape)  # Python's integers do not overflow

    def take(key: str, kind: str, size: int) -> bytes:
        got, blob = blobs.pop(f"{key}/{name}", (None, b""))
        _require(got == kind and len(blob) == size, f"{name} should have {size} bytes of {key}, it has {len(blob)}")
        return blob

    if bits in WHOLE:
        _require(groups == 0, f"{name} has {bits} bits and {groups!r} groups")
        entry, kind = WHOLE[bits]
        values = _values(take(entry, f"F{bits}", n * bits // 8), kind)
        _require(bool(torch.isfinite(values).all()), f"{name} has values that are not finite")
        return StoredTensor(tuple(shape), dtype, bits, values=values)
    _require(_is_count(groups) and 0 < groups <= n and n % groups == 0, f"{name} has {groups!r} groups for {n} entries")
    levels = _values(take("levels", "F16", 2 * groups * 2**bits), torch.float16).view(groups, 2**bits)
    _require(bool(torch.isfinite(levels).all()), f"{name} has levels that are not finite")
    packed = torch.frombuffer(bytearray(take("indices", "U8", packed_size(n, bits))), dtype=torch.uint8)
    spare = 8 * len(packed) - n * bits
    _require(not int(packed[-1]) >> (8 - spare), f"{name} has bits set behind its last index")
    return StoredTensor(tuple(shape), dtype, bits, indices=unpack_bits(packed, bits, n), levels=levels)


def _values(data: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.zeros(0, dtype=dtype)


def _checksum(about: dict[str, Any], outer: dict[str, Any], blob: bytes) -> str:
    """64 bits of BLAKE2 over everything else in the file: against damage, not against forgery."""
    text = json.dumps([about, outer], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass") + blob, digest_size=8).hexdigest()
