"""``QX`` on the command line is X to the script: it may read the name early, or build paths of it."""

import os
import re
from pathlib import Path

_OPTIONS = ("--trainer", "TRAINER.NAME")


def requested_trainer(argv: list[str]) -> str:
    """Return the trainer that the arguments name, or ""."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word in _OPTIONS:
            return following
        if word.startswith("--trainer="):
            return word.partition("=")[2]
    return ""


def as_plain(argv: list[str], folder: str) -> tuple[list[str], str, list[str]]:
    """Return the arguments with X for QX, the quantized trainer that was asked for (or ""), and notes.

    QX is replaced only if a file below `folder` defines a class X and none defines a class QX. In paths of files that
    do not exist, a folder QX is replaced by X if that makes the path of a file.

    Args:
        argv: the script and its arguments.
        folder: the checkout.
    """
    wanted = requested_trainer(argv)
    plain = wanted[1:]
    if not wanted.startswith("Q") or not plain or not _defined(plain, folder) or _defined(wanted, folder):
        return argv, "", []
    words, notes = [], []
    for before, word in zip(["", *argv], argv):  # noqa: B905 (one shorter)
        if word == wanted and before in _OPTIONS:
            words.append(plain)
        elif word == f"--trainer={wanted}":
            words.append(f"--trainer={plain}")
        else:
            path = re.sub(rf"(?<![\w]){re.escape(wanted)}(?![\w])", plain, word)
            found = path != word and not os.path.exists(_value(word)) and os.path.isfile(_value(path))
            if found:
                notes.append(f"{_value(word)} does not exist: {_value(path)} is read")
            words.append(path if found else word)
    return words, wanted, notes


def _value(word: str) -> str:
    return word.partition("=")[2] if word.startswith("--") and "=" in word else word


def _defined(name: str, folder: str) -> bool:
    """Return whether a Python file in the folder, or up to three folders below it, defines a class of that name."""
    statement = re.compile(rf"^\s*class\s+{re.escape(name)}\b", re.MULTILINE)
    files = [file for depth in range(4) for file in Path(folder).glob("/".join(["*"] * depth + ["*.py"]))]
    return any(statement.search(file.read_text(encoding="utf-8", errors="replace")) for file in files)
