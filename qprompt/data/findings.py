"""Findings of a data check, and the commands that fix them."""

import os
import shlex
from pathlib import Path
from typing import NamedTuple


class Finding(NamedTuple):
    """A fault or a remark.

    Attributes:
        level: "error" if runs fail or their results are invalid, else "warning".
        code: A short name for scripts, e.g. "missing-file".
        message: The fault.
        advice: The way to fix it.
    """

    level: str
    code: str
    message: str
    advice: str


def error(code: str, message: str, advice: str) -> Finding:
    """Return a finding of level "error"."""
    return Finding("error", code, message, advice)


def warning(code: str, message: str, advice: str) -> Finding:
    """Return a finding of level "warning"."""
    return Finding("warning", code, message, advice)


def prepare_command(name: str, root: Path) -> str:
    """Return the command that unpacks the data set `name` below `root`, or says where to get its files."""
    return shlex.join(["qprompt", "prepare-data", name, str(root)])


def check_command(name: str, root: Path) -> str:
    """Return the command that checks the data set `name` below `root`."""
    return shlex.join(["qprompt", "check-data", str(root), name])


def move_command(source: Path, target: Path) -> str:
    """Return a shell command that renames `source` to `target`; an existing target is renamed first."""
    move = shlex.join(["mv", str(source), str(target)])
    if not target.parent.exists():
        return f"{shlex.join(['mkdir', '-p', str(target.parent)])} && {move}"
    if not target.exists() or target.samefile(source):  # the same: other case, where names ignore it
        return move
    old = _free(target.with_name(f"{target.name}.old"))
    source = old / source.relative_to(target) if source.is_relative_to(target) else source
    return f"{shlex.join(['mv', str(target), str(old)])} && {shlex.join(['mv', str(source), str(target)])}"


def move_all_command(source: Path, target: Path) -> str:
    """Return a shell command that moves the files of one folder into another and removes the first."""
    return f"mv -n {shlex.quote(str(source))}/* {shlex.quote(str(target))} && {shlex.join(['rmdir', str(source)])}"


def hide_command(path: Path) -> str:
    """Return a shell command that hides a file or folder, so that it is not read."""
    return shlex.join(["mv", str(path), str(_free(path.with_name(f".{path.name}")))])


def _free(path: Path) -> Path:
    number = 1
    free = path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}{number}")
    return free
