"""Read and write ``split_zhou_*.json``: the published split of a data set, in CoOp's format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qprompt.data.items import Item, Split
from qprompt.errors import UserError
from qprompt.io.files import atomic_open, read_json


def read_split(path: Path) -> Split:
    """Read ``{"train": [[path, label, classname], ...], "val": [...], "test": [...]}``.

    Raises:
        UserError: The file is invalid; the message names the entry.
    """
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): download it again.") from None
    if not isinstance(data, dict) or not all(isinstance(data.get(part), list) for part in Split._fields):
        raise UserError(f"{path}: expected an object with lists 'train', 'val' and 'test'.")
    return Split(*(read_items(data[part], f"{path}, {part}") for part in Split._fields))


def read_items(rows: Sequence[Any], where: str) -> list[Item]:
    """Convert ``[path, label, classname]`` rows to items.

    Args:
        rows: The rows.
        where: The file and list, named in errors.

    Raises:
        UserError: A row is invalid, or its path is absolute or leaves the image folder.
    """
    names: dict[str, str] = {}  # share one string per class
    items = []
    for number, row in enumerate(rows):
        try:
            path, label, name = row
            item = Item(path, int(label), names.setdefault(name, name))
            f"{path}{name}".encode("utf-8", "surrogateescape")  # raises for text that cannot be a file name
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{where}, entry {number}: expected [path, label, classname], got {row!r}.") from None
        if not isinstance(path, str) or not isinstance(name, str) or item.label < 0:
            raise UserError(f"{where}, entry {number}: expected [path, label >= 0, classname], got {row!r}.")
        if path.startswith(("/", "\\")) or ".." in path.split("/"):
            raise UserError(f"{where}, entry {number}: {path!r} leaves the image folder.")
        items.append(item)
    return items


def write_new(path: Path, data: dict[str, Any], replace: bool = False, durable: bool = True) -> bool:
    """Write a JSON object with one list item per line, atomically and only if the file does not exist.

    If several runs call it at once, the first one writes the file and the others can read it.

    Args:
        path: The file; parent folders are created.
        data: The object.
        replace: Whether to replace an existing file.
        durable: Whether to wait until the file is on disk.

    Returns:
        Whether the file was written.
    """
    text = _dump(data)
    try:
        with atomic_open(path, overwrite=replace, durable=durable) as file:
            file.write(text.encode())
    except FileExistsError:
        if not path.exists():  # something else is in the way: a file in place of the folder
            raise
        return False
    return True


def _dump(data: dict[str, Any]) -> str:
    parts = []
    for key, value in data.items():
        text = json.dumps(value, ensure_ascii=True)
        if isinstance(value, list):
            rows = ",\n".join(json.dumps(row, ensure_ascii=True) for row in value)
            text = f"[\n{rows}\n]" if value else "[]"
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
