"""The images that paths of files and folders name."""

import glob
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from qprompt.data.tree import SUFFIXES, list_tree
from qprompt.errors import UserError

log = logging.getLogger(__name__)


def picture_paths(given: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the files in `given` and the images in its folders, with all folders below, each folder sorted.

    What is an image in a folder is decided as for training (`tree.list_tree`). What is left out is counted in log
    messages. Patterns such as ``*.jpg`` are expanded, which not every shell does.

    Raises:
        UserError: A path does not exist, or a folder has no images.
    """
    paths = [path for one in given for path in _expanded(os.fspath(one))]
    if missing := [path for path in paths if not os.path.exists(path)]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        url = (
            " Download images first, and name the files." if any(re.match(r"\w+://", path) for path in missing) else ""
        )
        raise UserError(f"{', '.join(missing[:3])}{more} do{'' if missing[1:] else 'es'} not exist.{url}")
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            found += _images_below(path)
        else:
            found.append(path)
    return found


def _expanded(path: str) -> list[str]:
    if os.path.exists(path) or not glob.has_magic(path):
        return [path]
    return sorted(glob.glob(path, recursive=True)) or [path]


def _images_below(folder: str) -> list[str]:
    tree, left_out = list_tree(Path(folder))
    for line in (*left_out.lines(important=True), *left_out.lines(important=False)):
        log.info("%s: not read: %s", folder, line)
    images = [os.path.join(folder, path) for path in tree.walk()]
    if not images:
        raise UserError(f"{folder} has no images ({', '.join(SUFFIXES)}), nor have the folders in it.")
    return images
