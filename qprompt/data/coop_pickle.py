"""Read the few-shot caches that CoOp pickled, without running any code in them."""

import io
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qprompt.data.items import Item, Split, by_label
from qprompt.errors import UserError
from qprompt.io.pickles import BoundedUnpickler


class DatumRecord:
    """Replaces Dassl's Datum while a pickle is read: it has the same attributes and no code."""

    _impath: Any = None
    _label: Any = None
    _classname: Any = None


class _DatumUnpickler(BoundedUnpickler):
    """Allows one class and refuses every other name in the pickle, above all functions."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "Datum" and re.fullmatch(r"dassl\.data\.datasets(\.\w+)?", module):
            return DatumRecord
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, expected only Dassl's Datum")


def read_records(path: Path) -> dict[str, list[tuple[str, int, str]]]:
    """Read a pickled ``{"train": [Datum, ...], ...}``.

    Returns:
        The absolute path, label and class name of every Datum, by the name of its list.

    Raises:
        UserError: The file is damaged or holds anything else.
    """
    try:
        content = path.read_bytes()
        data = _DatumUnpickler(io.BytesIO(content), len(content)).load()
    # Unpickling a damaged file raises nearly any exception.
    except Exception as error:
        raise UserError(f"{path} is refused: {error or type(error).__name__}.") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is refused: it holds a {type(data).__name__}, expected a dict of lists of images.")
    return {str(name): [_fields(record, path) for record in _list(part, path)] for name, part in data.items()}


def _list(part: Any, path: Path) -> Iterable[Any]:
    if not isinstance(part, (list, tuple)):
        raise UserError(f"{path} is refused: it holds a {type(part).__name__}, expected a list of images.")
    return part


def _fields(record: Any, path: Path) -> tuple[str, int, str]:
    if isinstance(record, DatumRecord):
        impath, label, name = record._impath, record._label, record._classname
        if isinstance(impath, str) and isinstance(label, int) and isinstance(name, str):
            return impath.replace("\\", "/"), label, name
    raise UserError(f"{path} is refused: an entry is not an image with a label and a class name.")


def match_items(records: list[tuple[str, int, str]], items: Iterable[Item], path: Path) -> list[Item]:
    """Return the items that the records refer to; the data may have been moved since they were pickled.

    Args:
        records: The absolute path, label and class name of each image.
        items: The items on disk.
        path: The pickle, named in errors.

    Raises:
        UserError: A record has no item, or its label or class name differs.
    """
    known = {item.path: item for item in items}
    found = []
    for impath, label, name in records:
        item = _by_longest_suffix(impath, known)
        if item is None:
            raise UserError(f"{path} does not match the data on disk: {impath} is not in the split.")
        if (item.label, item.classname) != (label, name):
            raise UserError(
                f"{path} does not match the data on disk: {item.path} has label {label} ({name!r}) in it, "
                f"but label {item.label} ({item.classname!r}) in the split."
            )
        found.append(item)
    return found


def _by_longest_suffix(impath: str, known: dict[str, Item]) -> Item | None:
    start = 0
    while True:
        if impath[start:] in known:
            return known[impath[start:]]
        start = impath.find("/", start) + 1
        if start == 0:
            return None


def read_draw(path: Path, full: Split, shots: int, with_val: bool) -> dict[str, list[Item]]:
    """Read the few-shot draw in ``shot_K-seed_S.pkl``.

    Args:
        path: The pickle.
        full: The split with all images.
        shots: The expected number of training images per class.
        with_val: Whether the draw has validation images.

    Returns:
        The drawn items under "train" and, `with_val`, under "val".

    Raises:
        UserError: The file is damaged, or it is not a draw of so many images per class from `full`.
    """
    records = read_records(path)
    draw = {}
    for part, count in (("train", shots), ("val", min(shots, 4))) if with_val else (("train", shots),):
        if part not in records:
            raise UserError(f"{path} has no {part!r} list.")
        draw[part] = match_items(records[part], getattr(full, part), path)
        if len(set(draw[part])) != len(draw[part]):
            raise UserError(f"{path} does not match the data on disk: an image occurs twice.")
        drawn = by_label(draw[part])
        for label, group in by_label(getattr(full, part)).items():
            got, expected = len(drawn.get(label, ())), min(count, len(group))
            if got != expected:
                raise UserError(
                    f"{path} does not match the data on disk: {got} {part} images of class "
                    f"{group[0].classname!r}, expected {expected}."
                )
    return draw


def read_order(path: Path, on_disk: dict[str, list[Item]]) -> list[list[Item]]:
    """Return the lists of `on_disk` in the order of the pickled listing `path`.

    Raises:
        UserError: The file is damaged, or it does not list exactly these items.
    """
    records = read_records(path)
    ordered = []
    for part, items in on_disk.items():
        found = match_items(records.get(part, []), items, path)
        if len(found) != len(items) or len(set(found)) != len(items):
            got = f"it lists {len(found)} {part} images, the folder holds {len(items)}"
            raise UserError(f"{path} does not match the data on disk: {got}.")
        ordered.append(found)
    return ordered
