"""Find faults in the files of a data set of the benchmark and say how to fix them."""

import os
import random
import shlex
from collections.abc import Iterator
from pathlib import Path

from qprompt.data import downloads
from qprompt.data.findings import Finding, error, move_command, prepare_command, warning
from qprompt.data.items import Split
from qprompt.data.layouts import Layout
from qprompt.data.readers import folders_in, images_in
from qprompt.data.split_checks import check_caches, check_sizes, check_split
from qprompt.data.split_file import read_split
from qprompt.data.whence import Whence
from qprompt.errors import UserError


def check_layout(layout: Layout, root: Path) -> tuple[list[Finding], Split | None]:
    """Check the files of one data set of the benchmark.

    Args:
        layout: The data set.
        root: The data root.

    Returns:
        The findings, and the split with all images (None if it cannot be read).
    """
    folder = root / layout.folder
    if not folder.is_dir():
        return [_missing_folder(layout, root)], None
    findings = list(_check_image_folders(layout, root))
    if any(f.level == "error" for f in findings):
        return findings, None
    split_file = layout.split_file(root)
    try:
        if split_file and split_file.is_file():
            split = read_split(split_file)
        else:
            missing = [name for name in layout.needs if not (folder / name).exists()]
            findings += [_missing_file(layout, name) for name in missing]
            if split_file:
                text = f"{split_file} does not exist: the first run will draw a random split, not the published one."
                findings.append(warning("no-split", text, f"Download it from {downloads.SPLITS}."))
            if missing:
                return findings, None
            split = layout.read_official(folder, random.Random(0))
    except UserError as reason:
        findings.append(error("unreadable-split", str(reason), _read_again(layout)))
        return findings, None
    whence = whence_of(layout, root)
    findings += check_split(split, folder / layout.images, whence)
    findings += check_sizes(layout, split, fixed=not split_file or split_file.is_file(), whence=whence)
    findings += check_caches(folder, split, with_val=not layout.test_is_val)
    if not layout.test_only and not os.access(folder, os.W_OK):
        text = f"{folder} is not writable: few-shot draws are not cached (the same seed still gives the same draw)."
        findings.append(warning("read-only", text, "Nothing to do if this is intended."))
    return findings, split


def whence_of(layout: Layout, root: Path) -> Whence:
    """Return where the files of a data set of the benchmark come from."""
    split_file = layout.split_file(root)
    used = split_file if split_file and split_file.is_file() else None
    return Whence(layout.name, root, used, downloads.PAGES[layout.name], (downloads.SPLITS,))


def _read_again(layout: Layout) -> str:
    return f"Get that file again, in its place: {' or '.join((downloads.SPLITS, *downloads.PAGES[layout.name]))}."


def _missing_folder(layout: Layout, root: Path) -> Finding:
    beside = _find_beside(layout, root)
    found = downloads.similar_folders(layout, folders_in(root))
    if beside and not (beside / layout.images).is_dir():
        text = f"{beside} holds the images, expected in {layout.folder}/{layout.images}."
        return error("wrong-nesting", text, f"Move it: {move_command(beside, root / layout.folder / layout.images)}")
    if found:
        text = f"{root} has a folder {found[0]!r}, expected {layout.folder!r}."
        return error("folder-name", text, f"Rename it: {move_command(root / found[0], root / layout.folder)}")
    advice = f"Unpack it, or see where to get it: {prepare_command(layout.name, root)}"
    return error("no-folder", f"{root / layout.folder} does not exist.", advice)


def _check_image_folders(layout: Layout, root: Path) -> Iterator[Finding]:
    """Check that each image folder exists and holds images, directly or in class folders."""
    folder, prepare = root / layout.folder, prepare_command(layout.name, root)
    for name in layout.image_folders:
        path = folder / name
        twice = _has_images(path / path.name)
        if _has_images(path) and not twice:
            if name == "images/val" and not folders_in(path):
                text = f"{path} holds images instead of one folder per class: the test set would be empty."
                yield error("val-not-in-class-folders", text, f"Move them: {prepare}")
            continue
        names = {path.name} | (downloads.image_folder_names(layout) if len(layout.image_folders) == 1 else set())
        nested = _find_nested(folder, names, path) or _find_beside(layout, root)
        archives = [n for n in downloads.archive_names(layout.name) for at in (root, folder) if (at / n).is_file()]
        tars = path.is_dir() and [file for file in os.listdir(path) if file.endswith(".tar")]
        if nested:
            text = f"The images are in {nested}, expected in {path}."
            yield error("wrong-nesting", text, f"Move the folder: {move_command(nested, path)}")
        elif len(layout.image_folders) == 1 and layout.images and _is_image_folder(folder):
            text = f"The class folders or images are in {folder}, expected in {path}."
            yield error("wrong-nesting", text, f"Move them: {_move_into(layout, folder)}")
        elif archives or tars:
            text = f"{path} holds no images: {archives[0] if archives else tars[0]} is not unpacked."  # type: ignore
            yield error("not-unpacked", text, f"Unpack it: {prepare}")
        else:
            text = f"{path} {'holds no images' if path.is_dir() else 'does not exist'}."
            yield error("no-images", text, f"See where to get them: {prepare}")


def _has_images(path: Path, depth: int = 3) -> bool:
    if not path.is_dir():
        return False
    return bool(images_in(path)) or (depth > 0 and any(_has_images(path / f, depth - 1) for f in folders_in(path)))


def _find_beside(layout: Layout, root: Path) -> Path | None:
    """Find the image folder in the data root: under the name of the archive, or that of the data set."""
    folders = folders_in(root)
    names = downloads.image_folder_names(layout) & set(folders) if len(layout.image_folders) == 1 else set()
    beside = [*sorted(names), *downloads.similar_folders(layout, folders)]
    return next((root / name for name in beside if layout.images and _is_image_folder(root / name)), None)


def _is_image_folder(folder: Path) -> bool:
    """Return whether images, or at least two folders with images in them, are in `folder`."""
    return bool(images_in(folder)) or sum(bool(images_in(folder / name)) for name in folders_in(folder)) > 1


def _move_into(layout: Layout, folder: Path) -> str:
    """A shell command that makes `folder` the image folder in a new `folder`; lists stay where they are."""
    inside = folder / layout.images
    away = folder.with_name(f"{folder.name}.images")
    commands = [["mv", folder, away], ["mkdir", "-p", inside.parent], ["mv", away, inside]]
    lists = [name for name in os.listdir(folder) if name in _lists(layout)]
    if lists:
        commands.append(["mv", *(inside / name for name in sorted(lists)), folder])
    return " && ".join(shlex.join(map(str, command)) for command in commands)


def _lists(layout: Layout) -> set[str]:
    """The names of what a data set's folder holds besides its image folder."""
    split = f"split_zhou_{layout.split_name}.json"
    return {*(name.split("/")[0] for name in layout.needs), split, "split_fewshot", "meta"}


def _find_nested(folder: Path, names: set[str], expected: Path, depth: int = 3) -> Path | None:
    """Find a folder with one of `names` that holds images below `folder`, other than the expected one."""
    for child in folders_in(folder):
        path = folder / child
        if child in names and path != expected and _has_images(path):
            return path
        if depth and (found := _find_nested(path, names, expected, depth - 1)):
            return found
    return None


def _missing_file(layout: Layout, name: str) -> Finding:
    pages = " or ".join((*downloads.PAGES[layout.name], downloads.SPLITS))
    advice = f"Download it from {pages}."
    if layout.test_only and name == "classnames.txt":
        advice = "Copy imagenet/classnames.txt there ('qprompt prepare-data' does it)."
    return error("missing-file", f"{layout.folder}/{name} does not exist.", advice)
