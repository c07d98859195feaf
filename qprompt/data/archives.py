"""Unpack archives from untrusted sources: only regular files, nothing outside the target, nothing overwritten."""

import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from qprompt.errors import UserError
from qprompt.io.files import atomic_open

# Images are compressed already. An archive that grows by more than this is an attempt to fill the disk.
GROWTH = 20
ALLOWANCE = 1_000_000_000  # bytes


class Member(NamedTuple):
    """One file in an archive; `open` returns a stream of its content."""

    path: str
    size: int
    open: Callable[[], IO[bytes]]


class Unpacked(NamedTuple):
    """The number of files that were written and of those that existed already."""

    written: int
    existing: int


def unpack(archive: Path, target: Path, inside: Sequence[str] = ("",), to: str = "") -> Unpacked:
    """Write the files below one of the archive's folders `inside` to ``target/to``.

    An existing file of the same size is skipped.

    Args:
        archive: A .zip or .tar file, compressed or not.
        target: The folder to unpack into.
        inside: Folders in the archive; the first one that contains a file determines its relative path.
        to: A folder below `target`.

    Raises:
        UserError: A file exists with another size, a path leaves the target, a member is a link or a device, the
            archive is damaged, or it unpacks to more than GROWTH times its size plus ALLOWANCE.
    """
    budget = archive.stat().st_size * GROWTH + ALLOWANCE
    written = existing = 0
    with members(archive) as found:
        for member in found:
            path = relative(member.path, inside, archive)
            if path is None:
                continue
            budget -= member.size
            if budget < 0:
                raise UserError(f"{archive} unpacks to more than {GROWTH} times its size: refused.")
            if write(member, target / to / path, archive):
                written += 1
            else:
                existing += 1
    return Unpacked(written, existing)


@contextmanager
def members(archive: Path, stream: IO[bytes] | None = None) -> Iterator[Iterator[Member]]:
    """Iterate over the files in a .zip or .tar archive, read from `stream` if it is given.

    Raises:
        UserError: The archive is damaged or holds a link or a device.
    """
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(stream or archive) as opened_zip:
                yield _zip_members(opened_zip, archive)
        else:
            with tarfile.open(archive if stream is None else None, fileobj=stream) as opened_tar:
                yield _tar_members(opened_tar, archive)
    except UserError:
        raise
    # The readers of a damaged archive raise nearly any exception.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # a disk error, not a damaged archive
            raise UserError(f"{error.strerror}: {error.filename or archive}.") from None
        raise UserError(f"{archive} is damaged ({error or type(error).__name__}): download it again.") from None


def _zip_members(opened: zipfile.ZipFile, archive: Path) -> Iterator[Member]:
    for info in opened.infolist():
        if info.external_attr >> 16 & 0o170000 == 0o120000:
            raise UserError(f"{archive} holds a link, {info.filename!r}: refused.")
        if not info.is_dir():
            yield Member(info.filename, info.file_size, lambda info=info: opened.open(info))  # type: ignore[misc]


def _tar_members(opened: tarfile.TarFile, archive: Path) -> Iterator[Member]:
    for info in opened:
        if not (info.isfile() or info.isdir()):
            raise UserError(f"{archive} holds a link or a device, {info.name!r}: refused.")
        if info.isfile():
            yield Member(info.name, info.size, lambda info=info: opened.extractfile(info))  # type: ignore[misc, arg-type]
        opened.members = []  # type: ignore[attr-defined]  # tarfile would keep every member, up to a million


def relative(path: str, inside: Sequence[str], archive: Path) -> str | None:
    """Return `path` relative to the first folder of `inside` that contains it; None if none does or it is hidden.

    Raises:
        UserError: The path is absolute or leaves the folder it is unpacked into.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or not parts or ":" in parts[0]:
        raise UserError(f"{archive} holds {path!r}, which leaves the target folder: refused.")
    if any(part.startswith((".", "__MACOSX")) for part in parts):
        return None
    for folder in inside:
        wanted = folder.split("/") if folder else []
        if parts[: len(wanted)] == wanted and len(parts) > len(wanted):
            return "/".join(parts[len(wanted) :])
    return None


def write(member: Member, path: Path, archive: Path) -> bool:
    """Write one file atomically; return False if it exists already.

    Raises:
        UserError: The file exists with another size.
    """
    if path.exists():
        if path.stat().st_size == member.size:
            return False
        raise UserError(f"{path} exists with another size than in {archive}. Move it away: nothing is overwritten.")
    with member.open() as content, atomic_open(path, durable=False) as file:
        shutil.copyfileobj(content, file, 1 << 20)
    return True
