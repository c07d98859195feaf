"""Unpacks archives that may come from anyone: nothing outside the target, nothing overwritten, nothing but files."""

import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from qprompt.errors import UserError
from qprompt.io.files import atomic_open

# Images hardly shrink in an archive: one that grows by more than this is made to fill a disk.
GROWTH = 20
ALLOWANCE = 1_000_000_000  # bytes


class Member(NamedTuple):
    """One file in an archive; `open` gives its content."""

    path: str
    size: int
    open: Callable[[], IO[bytes]]


class Unpacked(NamedTuple):
    """How many files were written, and how many were there already."""

    written: int
    kept: int


def unpack(archive: Path, target: Path, inside: Sequence[str] = ("",), to: str = "") -> Unpacked:
    """Write what the archive holds below one of the folders `inside` to ``target/to``.

    A file that is there with the same size is kept; one of another size raises UserError, and so do paths that
    leave the target, links, devices, and an archive that grows out of proportion.
    """
    budget = archive.stat().st_size * GROWTH + ALLOWANCE
    written = kept = 0
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
                kept += 1
    return Unpacked(written, kept)


@contextmanager
def members(archive: Path, stream: IO[bytes] | None = None) -> Iterator[Iterator[Member]]:
    """The files in a .zip or .tar (plain or compressed) archive, one after the other."""
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(stream or archive) as opened_zip:
                yield _zip_members(opened_zip, archive)
        else:
            with tarfile.open(archive if stream is None else None, fileobj=stream) as opened_tar:
                yield _tar_members(opened_tar, archive)
    except UserError:
        raise
    # A damaged archive can raise nearly anything on its way.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the archive
            raise UserError(f"{error.strerror}: {error.filename or archive}.") from None
        raise UserError(f"{archive} is damaged ({error or type(error).__name__}): fetch it again.") from None


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
        opened.members = []  # type: ignore[attr-defined]  # tarfile keeps all it has seen: a million entries otherwise


def relative(path: str, inside: Sequence[str], archive: Path) -> str | None:
    """`path` below the first folder of `inside` that it is in; None if it is in none or hidden."""
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
    """Write one file, whole or not at all; False if it is there already."""
    if path.exists():
        if path.stat().st_size == member.size:
            return False
        raise UserError(f"{path} is there with another size than in {archive}: move it away; nothing is overwritten.")
    with member.open() as content, atomic_open(path, durable=False) as file:
        shutil.copyfileobj(content, file, 1 << 20)
    return True
