"""The images that paths of files and folders name."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from qprompt.data.tree import SUFFIXES
from qprompt.errors import UserError

log = logging.getLogger(__name__)
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")


def picture_paths(given: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the files in `given` and the images in its folders, with all folders below, each folder sorted.

    A folder's images are told by their suffixes. Other files are skipped and counted in a log message; hidden files and
    folders are skipped.

    Raises:
        UserError: A path does not exist, or a folder has no images.
    """
    paths = [os.fspath(path) for path in given]
    if missing := [path for path in paths if not os.path.exists(path)]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(f"{', '.join(missing[:3])}{more} do{'' if missing[1:] else 'es'} not exist.")
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            found += _images_below(path)
        else:
            found.append(path)
    return found


def _images_below(folder: str) -> list[str]:
    files = list(_files_below(folder, set()))
    images = [file for file in files if file.lower().endswith(SUFFIXES)]
    if not images:
        raise UserError(f"{folder} has no images ({', '.join(SUFFIXES)}), nor have the folders in it.")
    if len(files) > len(images):
        kinds = Counter(Path(file).suffix.lower() or "no suffix" for file in set(files) - set(images))
        counts = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(5))
        log.info("%s: skipped %d files without the suffix of an image: %s", folder, len(files) - len(images), counts)
    return images


def _files_below(folder: str, above: set[str]) -> Iterator[str]:
    """Yield files, then those of the folders; a link to a folder above is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            shown = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}.") from None
    for entry in shown:
        if not entry.is_dir():
            yield entry.path
    for entry in shown:
        if entry.is_dir() and entry.name not in _SYSTEM_FOLDERS:
            yield from _files_below(entry.path, above | {real})
