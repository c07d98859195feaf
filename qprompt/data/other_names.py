"""Images that a split lists under other names than on disk: other case, suffix or Unicode form."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from qprompt.data.tree import SUFFIXES
from qprompt.errors import UserError


def find_other_names(folder: Path, missing: Iterable[str], listed: set[str]) -> dict[str, str]:
    """Return for missing files the one file that is meant.

    Args:
        folder: The folder that paths are relative to.
        missing: Paths of files that do not exist.
        listed: All paths of the split: files with these names are not renamed.

    Returns:
        Missing path -> path on disk; only where there is exactly one that no other missing path can mean.
    """
    tree = _Tree(folder)
    candidates = {path: [found for found in tree.like(path) if found not in listed] for path in missing}
    wanted: dict[str, list[str]] = {}
    for path, found in candidates.items():
        for one in found:
            wanted.setdefault(one, []).append(path)
    return {path: found[0] for path, found in candidates.items() if len(found) == 1 and wanted[found[0]] == [path]}


def rename(folder: Path, names: dict[str, str]) -> None:
    """Give files the names of the split; folders are made, and removed where they become empty.

    Raises:
        UserError: A file cannot be renamed.
    """
    for path, on_disk in names.items():
        try:
            if not os.path.lexists(folder / path):
                os.renames(folder / on_disk, folder / path)
        except OSError as error:
            raise UserError(f"{folder / on_disk} cannot be renamed to {path}: {error.strerror}.") from None


class _Tree:
    """Folders by name, each listed once."""

    def __init__(self, root: Path):
        self.root = root
        self.listed: dict[str, dict[str, list[str]]] = {}

    def like(self, path: str) -> list[str]:
        """The files whose path is `path` up to case and Unicode form; if there are none, with any suffix of images."""
        parent, _, name = path.rpartition("/")
        folders = [""]
        for part in parent.split("/") if parent else ():
            folders = [f"{f}/{own}".lstrip("/") for f in folders for own in self._names(f).get(_folded(part), [])]
        stem = _folded(os.path.splitext(name)[0])
        same, other = [], []
        for folder in folders:
            names = self._names(folder)
            same += [f"{folder}/{own}".lstrip("/") for own in names.get(_folded(name), [])]
            for suffix in SUFFIXES:
                other += [f"{folder}/{own}".lstrip("/") for own in names.get(stem + suffix, [])]
        return same or other

    def _names(self, folder: str) -> dict[str, list[str]]:
        if folder not in self.listed:
            found: dict[str, list[str]] = {}
            try:
                for name in os.listdir(self.root / folder):
                    found.setdefault(_folded(name), []).append(name)
            except OSError:
                pass
            self.listed[folder] = found
        return self.listed[folder]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
