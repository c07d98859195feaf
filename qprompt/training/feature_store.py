"""Features on disk, shared between runs: files that are complete or not used, of a bounded total size."""

import contextlib
import hashlib
import inspect
import io
import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from qprompt.io.files import atomic_open
from qprompt.io.torch_files import read_torch_file

_DIGEST = hashlib.sha256().digest_size


class FeatureFiles:
    """A folder of at most `limit` bytes; the least recently used files are removed first.

    Any number of processes may use it at once. Features whose file is damaged or cannot be written are computed again.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int):
        self.folder, self.limit = Path(folder), limit

    def read(self, key: str) -> Any:
        """Return what was written under `key`, or None."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
                return None
            value = read_torch_file(data[_DIGEST:], map_location="cpu")
        except (OSError, ValueError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return value

    def write(self, key: str, value: Any) -> None:
        """Store a value: tensors, numbers and strings in dicts, lists and tuples."""
        buffer = io.BytesIO()
        torch.save(value, buffer)
        data = buffer.getvalue()
        if len(data) + _DIGEST > self.limit:
            return
        with contextlib.suppress(OSError):
            self._make_room(len(data) + _DIGEST)
            with atomic_open(self._path(key)) as file:
                file.write(hashlib.sha256(data).digest() + data)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.features"

    def _make_room(self, size: int) -> None:
        files = []
        for path in self.folder.glob("*.features"):
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = size + sum(file[1] for file in files)
        for _, freed, path in sorted(files):
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= freed


def key_of(parts: Iterable[Any]) -> str:
    """Return the SHA-256 of the representations of `parts`: equal only if all parts are."""
    digest = hashlib.sha256()
    for part in parts:
        text = repr(part).encode()
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.hexdigest()


def description(value: Any) -> bytes | None:
    """Return bytes that are equal, in every process, only if two values are equal and behave equally.

    They are the pickle (attributes and class names) and hashes of the files that define its classes and functions.
    None where that is not enough: for lambdas, and for what cannot be pickled.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, protocol=4)
    try:
        pickler.dump(value)
        sources = [hashlib.sha256(Path(file).read_bytes()).digest() for file in sorted(pickler.files)]
    except (pickle.PicklingError, AttributeError, TypeError, OSError):
        return None
    return b"".join([buffer.getvalue(), *sources])


class _Pickler(pickle.Pickler):
    """Collects the files that define the classes and functions that it pickles."""

    def __init__(self, *args: Any, **keywords: Any):
        super().__init__(*args, **keywords)
        self.files: set[str] = set()

    def reducer_override(self, value: Any) -> Any:
        if inspect.isclass(value) or inspect.isfunction(value):
            with contextlib.suppress(TypeError):  # built into Python
                self.files.add(inspect.getfile(value))
        return NotImplemented
