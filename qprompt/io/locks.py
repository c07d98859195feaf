"""Locks between processes, on a file."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # NFS without its lock service, and some drives


class Locked(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def hold(path: str | os.PathLike[str], wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` inside the block.

    The operating system releases the lock when the process ends, however it ends. The file stays: if it were removed,
    two processes could hold locks on two files with the same name.

    Where the file system has no locks, the block runs without one after a warning.

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
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks: do not start the same command twice at a time.", path)
    try:
        yield
    finally:
        lock.release()
