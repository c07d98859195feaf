"""Files that are either whole or not there."""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from qprompt.errors import UserError

# What a full disk, a quota, a read-only folder, a file in the way or a failing disk raises.
_OF_THE_DISK = {"ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EEXIST", "ENOTDIR", "EISDIR", "EIO"}


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` only when the block ends without an error.

    It is written beside its final place, flushed to disk and renamed, so a reader (or a run that is
    killed half-way) sees the old file or the new one and never a part. Parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        # mkstemp makes files only their owner can read; results are for sharing like any other file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write that fails does not say to which file
        raise


@contextlib.contextmanager
def disk_errors_named() -> Iterator[None]:
    """A disk that is full or may not be written to is a UserError with the file's name. Around a whole program."""
    try:
        yield
    except OSError as error:
        if isinstance(error, UserError) or errno.errorcode.get(error.errno or 0) not in _OF_THE_DISK:
            raise
        raise UserError(
            f"{error.filename or 'a file'}: {error.strerror}. No file is left half-written; "
            "what was written before stays, and the same command goes on from there."
        ) from None


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left half-written in `folder`; no live one may be writing there."""
    for temporary in Path(folder).glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str]) -> Any:
    """The JSON value in a file. OSError, or ValueError for whatever is not JSON."""
    return parse_json(Path(path).read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """`json.loads` with one kind of error for all that is not JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write `data` as indented JSON, atomically. NaN is refused: it is not JSON."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_open(path) as file:
        file.write(text.encode("utf-8") + b"\n")
