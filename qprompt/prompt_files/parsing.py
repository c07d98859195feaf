"""Parse a prompt file into NumPy arrays (PyTorch is not imported) and check it.

The file is not trusted: every size that it claims is checked against the true size before memory is allocated.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qprompt.errors import UserError
from qprompt.io.file_kinds import KINDS, kind_of
from qprompt.prompt_files.hub import downloaded, is_hub_address
from qprompt.prompt_files.metadata import check_metadata

_KINDS = (
    (rb"PK\x03\x04.{0,200}\.pkl|\x80[\x02-\x05][^\0]", "a checkpoint", "qprompt pack makes a prompt file of it"),
    (rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*|MM\0", "an image", "the prompt file comes before the images"),
)
FORMAT = 1
DTYPES = ("float16", "bfloat16", "float32", "float64")
# Bits of tensors that are stored without a codebook: the name of their entry.
WHOLE = {16: "half", 32: "full"}
LARGEST_HEADER = 2**24


@dataclass(frozen=True)
class ParsedTensor:
    """One tensor of the file: indices and levels with 1 to 8 bits, values with 16 or 32.

    Attributes:
        shape, dtype: of the tensor as it was trained.
        bits: per entry.
        groups: number of codebooks; 0 without.
        values: (N,) float16 or float32.
        packed: uint8, the packed indices.
        levels: (G, 2^bits) float16.
    """

    shape: tuple[int, ...]
    dtype: str
    bits: int
    groups: int = 0
    values: np.ndarray | None = None
    packed: np.ndarray | None = None
    levels: np.ndarray | None = None


class ParsedFile(NamedTuple):
    """A valid file: its tensors by name, its metadata (`about`) without the descriptions of tensors, and its size."""

    tensors: dict[str, ParsedTensor]
    about: dict[str, Any]
    file_bytes: int


def packed_size(n: int, bits: int) -> int:
    """Return the number of bytes of n indices of `bits` bits."""
    return -(-n * bits // 8)


def payload_bytes(shape: tuple[int, ...], bits: int, groups: int) -> int:
    """Return the bytes of a tensor's entries: indices and levels, or values."""
    n = math.prod(shape)
    return n * bits // 8 if bits in WHOLE else packed_size(n, bits) + 2 * groups * 2**bits


def parse_file(path: str | os.PathLike[str]) -> ParsedFile:
    """Read and check a prompt file, or one at ``hf://USER/NAME`` on the Hugging Face Hub (`hub.downloaded`).

    UserError if it is damaged, inconsistent, of a newer format, or something else.
    """
    path = downloaded(path) if isinstance(path, str) and is_hub_address(path) else Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    try:
        return parse(data)
    except Invalid as problem:
        kind = "" if data.startswith(b"{", 8) else kind_of(data, (*_KINDS, *KINDS))
        reason = f"it is {kind}" if kind else problem
        raise UserError(f"{path} is not a valid prompt file: {reason}") from None


class Invalid(Exception):
    """The bytes are not a valid prompt file; the message says why."""


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise Invalid(problem)


def parse(data: bytes) -> ParsedFile:
    """Return the content of a prompt file; `Invalid` if it is none."""
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
    found = about.pop("checksum", None)
    _require(found == checksum(about, outer, data[start:]), "its checksum is wrong, so it is damaged")
    described = about.pop("tensors", None)
    _require(isinstance(described, dict) and bool(described), "it names no tensors")
    tensors = {name: _tensor(name, entry, blobs) for name, entry in described.items()}
    _require(not blobs, f"it holds {', '.join(list(blobs)[:3])}, which its metadata does not name")
    try:
        check_metadata(about)
    except ValueError as problem:
        raise Invalid(str(problem)) from None
    return ParsedFile(tensors, about, len(data))


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


def _tensor(name: str, entry: Any, blobs: dict[str, tuple[str, bytes]]) -> ParsedTensor:
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
        values = np.frombuffer(take(WHOLE[bits], f"F{bits}", n * bits // 8), f"<f{bits // 8}")
        _require(bool(np.isfinite(values).all()), f"{name} has values that are not finite")
        return ParsedTensor(tuple(shape), dtype, bits, values=values)
    _require(_is_count(groups) and 0 < groups <= n and n % groups == 0, f"{name} has {groups!r} groups for {n} entries")
    levels = np.frombuffer(take("levels", "F16", 2 * groups * 2**bits), "<f2").reshape(groups, 2**bits)
    _require(bool(np.isfinite(levels).all()), f"{name} has levels that are not finite")
    packed = np.frombuffer(take("indices", "U8", packed_size(n, bits)), np.uint8)
    spare = 8 * len(packed) - n * bits
    _require(not int(packed[-1]) >> (8 - spare), f"{name} has bits set behind its last index")
    return ParsedTensor(tuple(shape), dtype, bits, groups, packed=packed, levels=levels)


def checksum(about: dict[str, Any], outer: dict[str, Any], blob: bytes) -> str:
    """Return 64 bits of BLAKE2 over everything else in the file: against damage, not against forgery."""
    text = json.dumps([about, outer], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass") + blob, digest_size=8).hexdigest()
