"""Locks between processes, on a file."""

import contextlib
import os
from collections.abc import Iterator

from filelock import FileLock, Timeout


class Locked(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def hold(path: str | os.PathLike[str], wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` inside the block.

    The operating system releases the lock when the process ends, however it ends. The file stays: if it were removed,
    two processes could hold locks on two files with the same name.

    A forked process (a data loader worker, which may outlive a killed run by seconds) does not hold the lock: filelock
    3.30 and later close the file in it. Earlier versions do not.

    Args:
        path: the lock file; it and its parent folders are made if they do not exist.
        wait: wait until the lock is free.

    Raises:
        Locked: another process (or another `hold` in this one) holds the lock, and `wait` is False.
        OSError: the lock file cannot be opened.
    """
    lock = FileLock(path, blocking=wait)
    try:
        lock.acquire()
    except Timeout:
        raise Locked(str(path)) from None
    try:
        yield
    finally:
        lock.release()
