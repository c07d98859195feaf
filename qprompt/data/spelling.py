"""Names as people spell and order them: Unicode forms, bytes that are not text, numbers by value."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"[+\-\u2212]?\d+(\.\d+)?")


def natural_key(name: str) -> tuple[Any, ...]:
    """Return a key that sorts numbers in names by value: 1, 2, 10; class2 before class10; in all digits of Unicode.

    Names without digits sort by code points, as Python sorts them.
    """
    key: list[Any] = []
    for number, part in enumerate(re.split(r"(\d+)", unicodedata.normalize("NFC", name))):
        if number % 2:
            digits = "".join(str(unicodedata.decimal(digit)) for digit in part).lstrip("0")
            key.append((len(digits), digits))  # not int(), which refuses thousands of digits
        else:
            key.append(part)
    return (key, name)


def in_order(names: Iterable[str]) -> list[str]:
    """Return names in natural order; by value, with sign and fraction, if all of them are numbers."""
    names = list(names)
    if all(_NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (float(name.replace("\u2212", "-")), natural_key(name)))
    return sorted(names, key=natural_key)


def readable(name: str) -> str:
    """Return the name of a file or folder as text: composed (NFC), bytes that are not UTF-8 as U+FFFD."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def as_on_disk(root: Path, paths: Sequence[str]) -> list[str]:
    """Return each path in the Unicode form of the file below `root`; unchanged if there is no such file.

    A list that was written on one system often spells names in another form than the files that were copied there.
    """
    listed: dict[str, dict[str, str]] = {}

    def names(folder: str) -> dict[str, str]:
        if folder not in listed:
            try:
                listed[folder] = {unicodedata.normalize("NFC", name): name for name in os.listdir(root / folder)}
            except OSError:
                listed[folder] = {}
        return listed[folder]

    def found(path: str) -> str:
        if path.isascii() or os.path.exists(root / path):
            return path
        folder = ""
        for part in path.split("/"):
            own = names(folder).get(unicodedata.normalize("NFC", part), part)
            folder = f"{folder}/{own}".lstrip("/")
        return folder

    return [found(path) for path in paths]
