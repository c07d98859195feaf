"""Text files of people: UTF-8 and UTF-16, with or without a byte order mark. Other encodings are refused."""

import codecs
import os
import shlex
from pathlib import Path

from qprompt.errors import UserError

_MARK = "\ufeff"
# Longest first: the mark of UTF-16 is the beginning of that of UTF-32.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_CANDIDATES = ("GBK", "CP1252", "SHIFT_JIS", "BIG5", "EUC-KR", "CP1251")


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file, without byte order marks.

    Raises:
        OSError: The file cannot be read.
        UserError: Its encoding cannot be known; the message says how to convert it.
    """
    return decode(Path(path).read_bytes(), path)


def decode(data: bytes, path: str | os.PathLike[str]) -> str:
    """Return the text of `data`, the content of `path`; raises as `read_text` does."""
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "")
    if not encoding and b"\0" in data:  # no UTF-8 text contains it, but UTF-16 does wherever it has a line end
        encoding = _order(data)
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text:
        return text.replace(_MARK, "")  # also in the middle of files that were joined
    raise UserError(f"{path} cannot be read as UTF-8 text{_readings(data, str(path))}")


def _order(data: bytes) -> str:
    """UTF-16 in the byte order that gives more line ends and letters of ASCII; "" if both give as many."""
    count = {}
    for name in ("utf-16-le", "utf-16-be"):
        count[name] = sum(character.isascii() for character in data.decode(name, "replace"))
    return "" if len(set(count.values())) == 1 else max(count, key=lambda name: count[name])


def _readings(data: bytes, path: str) -> str:
    """How the first line that is not UTF-8 reads in other encodings, and a command that converts the file."""
    line = next((line for line in data.splitlines() if not line.isascii()), b"")[:60]
    readings: dict[str, str] = {}
    for name in _CANDIDATES:
        try:
            data.decode(name)
            text = line.decode(name, "ignore").strip()
        except UnicodeDecodeError:
            continue
        if text.isprintable() and text not in readings.values():
            readings[name] = text
    if not readings or b"\0" in data or data.startswith(tuple(_MARKS)):
        return ". Save it as UTF-8 in an editor."
    shown = ", ".join(f"{name} {text!r}" for name, text in readings.items())
    first, target = next(iter(readings)), f"{os.path.splitext(path)[0]}.utf8{os.path.splitext(path)[1]}"
    command = f"iconv -f {first} -t UTF-8 {shlex.quote(path)} > {shlex.quote(target)}"
    return f", and its encoding is not certain. One line reads: {shown}. To convert it, for example: {command}"
