"""Files that are complete or do not exist, and JSON."""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from qprompt.errors import UserError
from qprompt.io.text import read_text

# Errors of a full disk, a quota, a read-only folder, a file in place of a folder, and a disk or server that fails.
_OF_THE_DISK = {"ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EEXIST", "ENOTDIR", "EISDIR", "EIO"}
_OF_THE_DISK |= {"ESTALE", "ENOTCONN", "EHOSTDOWN", "EREMOTEIO"}
_NOT_THERE = {"EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP"}  # of a file system that cannot do what is asked
_PREFIX = 32  # characters of the final name in the temporary one: a name that a file system takes must not get too long


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str], *, overwrite: bool = True, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that appears under `path` only when the block ends without an error.

    The file is written under a temporary name in the same folder, flushed to disk and renamed. A reader sees the old
    file or the new one, never a part, even if the process is killed. Parent folders are made.

    Args:
        path: where the file appears.
        overwrite: replace a file that exists. False: exactly one of several concurrent writers succeeds.
        durable: wait until the content is on disk. False for many small files that can be written again.

    Raises:
        FileExistsError: a file exists and `overwrite` is False.
        OSError: the file cannot be written; `filename` is set.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:_PREFIX]}."
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".tmp")
    try:
        # Only the owner can read the files of mkstemp; others should be able to read results.
        umask = os.umask(0)
        os.umask(umask)
        with contextlib.suppress(OSError):  # drives and mounts without permissions
            os.chmod(temporary, 0o666 & ~umask)
        with os.fdopen(fd, "wb") as file:
            yield file
            if durable:
                file.flush()
                _wait_for_disk(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _move_to_free_name(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # the error of a failed write does not name the file
        raise


def _wait_for_disk(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if errno.errorcode.get(error.errno or 0) not in _NOT_THERE:
            raise


def _move_to_free_name(temporary: str, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, atomic and refused where the name is taken
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


@contextlib.contextmanager
def disk_errors_named() -> Iterator[None]:
    """Turn errors of a disk (full, read-only, ...) in the block, a whole program, into a UserError with the path."""
    try:
        yield
    except OSError as error:
        if isinstance(error, UserError) or errno.errorcode.get(error.errno or 0) not in _OF_THE_DISK:
            raise
        raise UserError(
            f"{error.filename or 'standard output or a file'}: {error.strerror}. No file is left half-written. "
            "Files written before are kept; the same command resumes from them."
        ) from None


def check_current_folder() -> None:
    """Raise UserError if the current folder was deleted: relative paths then mean nothing."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder was deleted or replaced: type 'cd FOLDER' first.") from None


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files of killed processes from `folder`. No process may be writing there."""
    for temporary in Path(folder).glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the JSON value in a file; OSError if it cannot be read, ValueError if it is not JSON."""
    try:
        text = read_text(path)
    except UserError as error:
        raise ValueError(str(error)) from None
    return parse_json(text)


def parse_json(text: str) -> Any:
    """Return the JSON value of `text`; ValueError, and no other error, if it is not JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write `data` as indented JSON, atomically; ValueError for NaN and infinity, which JSON does not have."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_open(path) as file:
        # A file name that is not UTF-8 holds surrogates; JSON has an escape for them, which is read as the same name.
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")
