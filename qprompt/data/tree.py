"""What lies below a folder of images: images by folder, and by reason what is left out."""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qprompt.data.images import missing_decoder
from qprompt.errors import UserError

# Read by Pillow (`qprompt.data.images.FORMATS`).
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".mpo",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".avif", ".avifs",
    ".heic", ".heif", ".hif",
)  # fmt: skip
# Pictures and films that are not read.
_OTHER_PICTURES = (
    ".jxl", ".svg", ".psd", ".xcf", ".eps", ".ai", ".pdf", ".ico", ".tga", ".dds", ".exr", ".hdr", ".dng", ".cr2",
    ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf", ".dcm", ".nii", ".npy", ".mp4", ".mov", ".avi", ".mkv", ".webm",
)  # fmt: skip
# The first bytes of images whose name does not say that they are images.
_STARTS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|....ftyp(avif|avis|hei[cxms]|hev[cx]|mif1|msf1)"
    rb"|\0\0\0\x0cjP  |P[1-6]\s",
    re.DOTALL,
)
_TEXT = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".html", ".yaml", ".yml", ".py", ".log", ".mat")
_SYSTEM = {
    "__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "lost+found", "$recycle.bin", "recycler",
    "system volume information", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "folder.htt",
}  # fmt: skip
_OURS = ".features"  # features that runs of QPrompt keep
_OUTPUT = {"config.json", "log.txt"}  # an output folder has both

# Reasons that concern pictures, which a user may miss.
NOT_READ = "pictures in a format that is not read"
BROKEN = "links to nothing"
NO_CLASS = "images without a class folder"
NO_SPLIT = "folders that are neither train, val nor test"
EMPTY = "folders without images"
LOOP = "links to a folder around them"
HIDDEN, SYSTEM, OTHER = "hidden files and folders", "files and folders of the system", "files that are not pictures"
RUNS = "output folders of runs"
IMPORTANT = (NOT_READ, BROKEN, NO_CLASS, NO_SPLIT, EMPTY, LOOP)


@dataclass
class Folder:
    """A folder with images or folders. `path` is relative to the root, which has ""; names are sorted."""

    name: str
    path: str
    images: list[str] = field(default_factory=list)
    folders: dict[str, "Folder"] = field(default_factory=dict)

    def walk(self) -> Iterator[str]:
        """Yield the paths of all images in this folder and below."""
        yield from (f"{self.path}/{name}".lstrip("/") for name in self.images)
        for folder in self.folders.values():
            yield from folder.walk()

    @property
    def has_images(self) -> bool:
        """Whether there is an image in this folder or below."""
        return next(self.walk(), None) is not None


class LeftOut:
    """Files and folders that are not read: reason -> paths."""

    def __init__(self) -> None:
        self.paths: dict[str, list[str]] = {}

    def add(self, reason: str, *paths: str) -> None:
        """Add paths, relative to the root."""
        if paths:
            self.paths.setdefault(reason, []).extend(paths)

    def lines(self, important: bool) -> list[str]:
        """Return one line per reason: the reason, the number and examples."""
        return [
            f"{reason}: {len(paths):,} ({', '.join(printable(path) for path in paths[:3])}{', ...' * (len(paths) > 3)})"
            for reason, paths in self.paths.items()
            if (reason in IMPORTANT) == important
        ]


def scan(root: Path) -> tuple[Folder, LeftOut]:
    """List everything below `root`, following links.

    Raises:
        UserError: A folder cannot be listed, or images need a decoder that is not installed.
    """
    tree, left_out = list_tree(root)
    found: dict[str, list[str]] = {}
    for path in tree.walk():
        found.setdefault(path.rpartition(".")[2].lower(), []).append(path)
    for suffix, paths in found.items():
        if command := missing_decoder(suffix):
            example = printable(paths[0])
            raise UserError(f"{root}: {len(paths)} .{suffix} images ({example}) cannot be read yet. Type: {command}")
    return tree, left_out


def list_tree(root: Path) -> tuple[Folder, LeftOut]:
    """List everything below `root`, following links; UserError if a folder cannot be listed."""
    left_out = LeftOut()
    return _scan(root, "", "", (os.path.realpath(root),), left_out), left_out


def _scan(root: Path, path: str, name: str, around: tuple[str, ...], left_out: LeftOut) -> Folder:
    folder = Folder(name, path)
    try:
        with os.scandir(root / path) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        how = f" Type: {readable_command(root)}" if isinstance(error, PermissionError) else ""
        raise UserError(f"{root / path}: {error.strerror}.{how}") from None
    if path and {entry.name for entry in entries} >= _OUTPUT and not any(_is_image(entry) for entry in entries):
        left_out.add(RUNS, path)
        return folder
    for entry in entries:
        below = f"{path}/{entry.name}".lstrip("/")
        if entry.name == _OURS:
            continue
        if entry.name.lower() in _SYSTEM:
            left_out.add(SYSTEM, below)
        elif entry.name.startswith("."):
            left_out.add(HIDDEN, below)
        elif _is(entry, os.DirEntry.is_dir):
            real = os.path.realpath(entry.path) if entry.is_symlink() or len(around) == 1 else ""
            real = real or os.path.join(around[-1], entry.name)
            if real in around:
                left_out.add(LOOP, below)
                continue
            runs = len(left_out.paths.get(RUNS, ()))
            inner = _scan(root, below, entry.name, (*around, real), left_out)
            only_runs = len(left_out.paths.get(RUNS, ())) > runs and not (inner.images or inner.folders)
            if not only_runs:
                folder.folders[entry.name] = inner
        elif not _is(entry, os.DirEntry.is_file):
            left_out.add(BROKEN if entry.is_symlink() else OTHER, below)
        elif _is_image(entry):
            folder.images.append(entry.name)
        else:
            left_out.add(NOT_READ if entry.name.lower().endswith(_OTHER_PICTURES) else OTHER, below)
    return folder


def _is(entry: os.DirEntry, kind: Callable[[os.DirEntry], bool]) -> bool:
    try:
        return kind(entry)
    except OSError:  # links to each other, or a link to a name that is too long
        return False


def _is_image(entry: os.DirEntry) -> bool:
    if entry.name.lower().endswith(SUFFIXES):
        return True
    if entry.name.lower().endswith((*_TEXT, *_OTHER_PICTURES)):
        return False
    try:
        with open(entry.path, "rb") as file:
            return bool(_STARTS.match(file.read(16)))
    except OSError:
        return False


def readable_command(root: Path) -> str:
    """Return the command with which the owner of a folder may read all in it."""
    return f"chmod -R u+rX {shlex.quote(str(root))}"


def printable(path: str) -> str:
    """Return a path as text that every terminal and file takes: bytes that are not UTF-8 as ``\\xNN``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
