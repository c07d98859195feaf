"""The rows of a list of images: what each says of path, class and part of the split, and what is wrong with it."""

import csv
import io
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from qprompt.data.faults import RowFaults
from qprompt.data.folder_layout import part_of
from qprompt.data.spelling import readable
from qprompt.data.tree import SUFFIXES
from qprompt.errors import UserError
from qprompt.io.files import parse_json

# Column -> its accepted names, without regard to case; a space or a hyphen counts as "_".
COLUMNS = {
    "path": (
        *("path", "filepath", "file", "filename", "file_name", "file_path", "image", "image_path", "image_name"),
        *("image_file", "impath", "img", "img_path"),
    ),
    "name": ("classname", "class", "class_name", "category"),
    "label": ("label", "class_id", "target"),
    "split": ("split", "set", "subset", "part", "partition", "phase", "usage", "data_set"),
}
EXAMPLE = "path,classname,split"
_LIKE_A_SPLIT = re.compile(r"(is_?)?(train|test|val|valid|fold|holdout)\w*", re.I)
logger = logging.getLogger(__name__)
_NUMBER = re.compile(r"([+-]?\d{1,9})(\.0+)?")  # spreadsheets and pandas write 1.0


class Row(NamedTuple):
    """A row without a fault: its number from 1, and what it says; `name` or `label` may be missing, not both."""

    number: int
    path: str
    name: str
    label: int | None
    part: str
    moved_from: str  # the path as it is listed, if it is one of another machine


def table(text: str, suffix: str) -> list[Any]:
    """Return the rows of a list as dicts.

    Args:
        text: of the file.
        suffix: ".csv", ".tsv" or ".jsonl".

    Raises:
        ValueError, csv.Error: The text is of another kind.
    """
    if suffix == ".jsonl":
        rows = []
        for number, line in enumerate(text.split("\n"), 1):
            try:
                rows += [parse_json(line)] if line.strip() else []
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON ({error})") from None
        return rows
    mark = "\t" if suffix == ".tsv" else max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark)
    named = [name.strip().lower() for name in reader.fieldnames or () if name.strip()]
    if twice := next((name for name in named if named.count(name) > 1), ""):
        raise ValueError(f"two of its columns are called {twice!r}")
    return list(reader)


def read_rows(rows: list[dict[str, Any]], file: str, root: Path, faults: RowFaults) -> list[Row]:
    """Return the rows that are right; the others are added to `faults`.

    Raises:
        UserError: There is no column of paths, or none of classes.
    """
    columns = {column: _find(rows[0], names) for column, names in COLUMNS.items()}
    if columns["path"] is None and any(str(key).lower().endswith(SUFFIXES) for key in rows[0]):
        raise UserError(f"{file} begins with an image, not with the names of its columns: add a first line {EXAMPLE}.")
    if columns["path"] is None or columns["name"] is None and columns["label"] is None:
        found = ", ".join(map(str, rows[0]))
        raise UserError(f"{file} has columns {found[:200]}; expected {EXAMPLE} (or label).")

    def text(row: dict[str, Any], kind: str) -> str:
        column = columns[kind]
        value = row.get(column) if column is not None else None
        return "" if value is None or value != value else str(value).strip()  # NaN: a missing value

    numbered = all(_NUMBER.fullmatch(label) for row in rows if (label := text(row, "label")))
    if not columns["name"] and not numbered:  # the column "label" holds names
        columns["name"], columns["label"] = columns["label"], None
    elif not numbered:
        columns["label"] = None
    _log_unused(rows[0], columns, file)
    has_parts = any(text(row, "split") for row in rows)
    found_rows = []
    for number, row in enumerate(rows, 1):

        def wrong(kind: str, message: str, advice: str, number: int = number) -> None:
            faults.add(kind, number, message, advice)

        if not any(str(value).strip() for value in row.values() if value is not None):
            continue  # spreadsheets end with such rows
        if any(isinstance(row.get(key), (list, dict)) for key in columns.values() if key is not None):
            wrong("kind", " holds a list or an object where text is expected.", "Write one text per field.")
            continue
        if None in row:
            wrong("long", " has more fields than the first line.", "Put values that hold commas into quotes.")
            continue
        path, label, part = text(row, "path"), text(row, "label"), text(row, "split")
        try:
            name = readable(text(row, "name"))
            path.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half a character, which JSON can hold
            wrong("text", " holds characters that are no text.", "Correct the path and the name of the class.")
            continue
        if (columns["name"] and not name) or (columns["label"] and not label):
            wrong("class", " has no class.", f"Write it there, in the columns {EXAMPLE}.")
            continue
        if has_parts and not part_of(part):
            wrong("split", f": split is {part!r}, expected train, val or test.", "Write one of them into each row.")
            continue
        relative = _relative(path, root, wrong)
        if relative:
            match = _NUMBER.fullmatch(label)
            moved = path if _is_elsewhere(path, root) else ""
            part = part_of(part) if has_parts else "train"
            found_rows.append(Row(number, relative, name, int(match[1]) if match else None, part, moved))
    return found_rows


def _log_unused(row: dict[str, Any], columns: dict[str, str | None], file: str) -> None:
    unused = [str(key) for key in row if key not in columns.values() and key is not None and str(key).strip()]
    if columns["split"] is None and (found := next((name for name in unused if _LIKE_A_SPLIT.fullmatch(name)), "")):
        logger.warning(
            "%s: the column %r is not used. If it says what is for training and for testing, write train, val or test "
            "into a column 'split'.",
            file,
            found,
        )
    elif unused:
        logger.info("%s: columns that are not used: %s", file, ", ".join(unused[:10]))


def _find(row: dict[str, Any], names: Iterable[str]) -> str | None:
    lower = {re.sub(r"[ -]", "_", str(key).strip().lower()): key for key in row}
    return next((lower[name] for name in names if name in lower), None)


def _relative(path: str, root: Path, wrong: Any) -> str:
    """The path below `root`; "" if there is none."""
    here = f"List paths relative to {root}, or type --root with the folder that they are relative to."
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        wrong(
            "url",
            f": {path} is a URL: download the image and list its path below the image folder {root}.",
            "A program that downloads the URLs of a list is, for example, wget -x -i FILE.",
        )
        return ""
    text = path.replace("\\", "/")
    if _is_elsewhere(text, root):
        end = _end_below(text, root)
        if not end:
            message = f": {path} is not below the image folder {root}, nor is a file with the end of this path."
            wrong(
                "elsewhere",
                message,
                f"Type --root with the folder that holds these images, or {here[0].lower()}{here[1:]}",
            )
        return end
    if text.startswith("/"):
        text = Path(text).relative_to(root).as_posix()
    while text.startswith("./"):
        text = text[2:]
    text = re.sub(r"/(\./|/)*", "/", text)
    if text in ("", ".") or ".." in text.split("/"):
        wrong("path", f": path {path!r} is empty or leaves the image folder {root}.", here)
        return ""
    return text


def _is_elsewhere(path: str, root: Path) -> bool:
    text = path.replace("\\", "/")
    return bool(re.match(r"[A-Za-z]:/", text)) or (text.startswith("/") and not Path(text).is_relative_to(root))


def _end_below(path: str, root: Path) -> str:
    """The longest end of an absolute path that is a file below `root`: lists keep the paths of another machine."""
    parts = [part for part in path.split("/") if part]
    ends = ("/".join(parts[start:]) for start in range(1, len(parts)))
    return next((end for end in ends if ".." not in parts and (root / end).is_file()), "")
