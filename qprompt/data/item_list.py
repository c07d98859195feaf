"""Read a list of images as CSV, TSV, JSON or JSON lines: path, class and optionally the part of the split."""

import csv
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qprompt.data.class_folders import PARTS
from qprompt.data.fewshot import Source
from qprompt.data.folder_layout import part_of
from qprompt.data.image_folder import complete
from qprompt.data.items import Item, Split
from qprompt.data.spelling import as_on_disk, in_order, readable
from qprompt.data.split_file import read_split
from qprompt.errors import UserError
from qprompt.io.files import parse_json
from qprompt.io.text import read_text

# Column -> its accepted names.
COLUMNS = {
    "path": ("path", "filepath", "file", "filename", "image", "image_path", "impath"),
    "name": ("classname", "class", "class_name", "category"),
    "label": ("label", "class_id", "target"),
    "split": ("split", "set", "subset", "part"),
}
logger = logging.getLogger(__name__)
_EXAMPLE = "path,classname,split"


def item_list(file: Path, root: Path) -> Source:
    """Return the source of a data set with images below `root` that are listed in `file`."""
    return Source(image_dir=root, read=lambda rng: read_item_list(file, root))


def read_item_list(file: Path, root: Path) -> Split:
    """Read the split that a list describes.

    Args:
        file: A .csv, .tsv, .json or .jsonl file; a .json file may also be a ``split_zhou`` file.
        root: The folder that paths are relative to.

    Raises:
        UserError: The file is invalid; the message names the row.
    """
    suffix = file.suffix.lower()
    if suffix not in (".csv", ".tsv", ".json", ".jsonl"):
        raise UserError(f"DATASET.LIST {str(file)!r}: expected a .csv, .tsv, .json or .jsonl file.")
    try:
        text = read_text(file)
        if suffix == ".json":
            rows = parse_json(text)
            if isinstance(rows, dict) and rows.keys() >= set(PARTS):
                return _on_disk(read_split(file), root)
        elif suffix == ".jsonl":
            rows = [parse_json(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if suffix == ".tsv" else _delimiter(text)))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"DATASET.LIST {file} cannot be read: {error}.") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"DATASET.LIST {file}: expected rows with {_EXAMPLE} (split is optional).")
    return _split(rows, file, root)


def _on_disk(split: Split, root: Path) -> Split:
    """The split with the paths of files in the Unicode form that they have on disk."""
    parts = []
    for part in split:
        paths = as_on_disk(root, [item.path for item in part])
        parts.append([item._replace(path=path) for item, path in zip(part, paths, strict=True)])
    return Split(*parts)


def _delimiter(text: str) -> str:
    head = text.partition("\n")[0]
    return max(",;\t", key=head.count)


def _split(rows: list[dict[str, Any]], file: Path, root: Path) -> Split:
    columns = {column: _find(rows[0], names) for column, names in COLUMNS.items()}
    if not columns["path"] or not (columns["name"] or columns["label"]):
        raise UserError(f"{file} has columns {', '.join(map(str, rows[0]))}; expected {_EXAMPLE} (or label).")

    def column(kind: str) -> list[Any] | None:
        key = columns[kind]
        return [row.get(key) for row in rows] if key else None

    names, labels = _classes(column("name"), column("label"), str(file))
    paths = [_relative(path, root, f"{file}, row {number}") for number, path in enumerate(column("path") or (), 1)]
    moved = [(was, now) for was, now in zip(column("path") or (), paths, strict=True) if _is_elsewhere(str(was), root)]
    if moved:
        logger.info("%s: %d paths of another place, such as %s, are read as %s.", file, len(moved), *moved[0])
    paths = as_on_disk(root, paths)
    parts = [
        _part(value, f"{file}, row {number}")
        for number, value in enumerate(column("split") or ["train"] * len(rows), 1)
    ]
    items: dict[str, list[Item]] = {part: [] for part in PARTS}
    seen: dict[str, str] = {}
    for path, label, name, part in zip(paths, labels, names, parts, strict=True):
        if path in seen:
            where = f"twice in {part}" if seen[path] == part else f"in {seen[path]} and in {part}"
            raise UserError(f"{file}: {path} is listed {where}.")
        seen[path] = part
        items[part].append(Item(path, label, name))
    return complete(items, str(file))


def _find(row: dict[str, Any], names: Iterable[str]) -> str | None:
    lower = {str(key).strip().lower(): key for key in row}
    return next((lower[name] for name in names if name in lower), None)


def _classes(names: list[Any] | None, labels: list[Any] | None, where: str) -> tuple[list[str], list[int]]:
    """The class name and the label (from 0) of each row, from one or both columns."""
    for values in (names, labels):
        for number, value in enumerate(values or (), 1):
            if value is None or str(value).strip() == "":
                raise UserError(f"{where}, row {number} has no class.")
    if labels and not all(str(label).strip().lstrip("-").isdigit() for label in labels):
        names, labels = names or labels, None  # the "label" column holds names
    if names and not labels:
        texts = [readable(str(name).strip()) for name in names]
        order = {name: label for label, name in enumerate(in_order(set(texts)))}
        return texts, [order[text] for text in texts]
    numbers = [int(label) for label in labels or ()]
    if min(numbers) not in (0, 1):
        raise UserError(f"{where}: the smallest label is {min(numbers)}, expected 0 (or 1).")
    if min(numbers) == 1:
        logger.info("%s: labels start at 1; they are used as 0 to %d.", where, max(numbers) - 1)
        numbers = [number - 1 for number in numbers]
    for expected, label in enumerate(sorted(set(numbers))):
        if label != expected:
            raise UserError(f"{where}: labels go up to {max(numbers)}, but no row has label {expected}.")
    return ([readable(str(name).strip()) for name in names] if names else [str(n) for n in numbers]), numbers


def _relative(path: Any, root: Path, where: str) -> str:
    text = str(path or "").strip()
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise UserError(
            f"{where}: {text} is a URL: download the image and list its path below the image folder {root}."
        )
    text = text.replace("\\", "/")
    if _is_elsewhere(text, root):
        text = _from_other_place(text, root, where)
    elif text.startswith("/"):
        text = Path(text).relative_to(root).as_posix()
    text = text.removeprefix("./")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        text = ""
    if not text or ".." in text.split("/"):
        raise UserError(f"{where}: path {str(path)!r} is empty or leaves the image folder {root}.")
    return text


def _is_elsewhere(path: str, root: Path) -> bool:
    text = path.strip().replace("\\", "/")
    return bool(re.match(r"[A-Za-z]:/", text)) or (text.startswith("/") and not Path(text).is_relative_to(root))


def _from_other_place(path: str, root: Path, where: str) -> str:
    """The longest end of an absolute path that is a file below `root`: lists keep the paths of another machine."""
    parts = [part for part in path.split("/") if part]
    for start in range(1, len(parts)):
        end = "/".join(parts[start:])
        if ".." not in parts and (root / end).is_file():
            return end
    raise UserError(
        f"{where}: {path} is not below the image folder {root}, nor is a file with the end of this path. "
        "Type --root with the folder that holds these images, or list paths relative to it."
    )


def _part(value: Any, where: str) -> str:
    part = part_of(str(value or "train"))
    if not part:
        raise UserError(f"{where}: split is {str(value)!r}, expected train, val or test.")
    return part
