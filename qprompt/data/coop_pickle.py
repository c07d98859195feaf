"""Reads the few-shot caches that CoOp pickled, without running anything that is in them."""

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
    """Stands in for Dassl's Datum while a pickle is read: holds its fields, does nothing."""

    _impath: Any = None
    _label: Any = None
    _classname: Any = None


class _DatumUnpickler(BoundedUnpickler):
    """Knows one class. Any other name in the pickle, a function above all, is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "Datum" and re.fullmatch(r"dassl\.data\.datasets(\.\w+)?", module):
            return DatumRecord
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no list of images needs")


def read_records(path: Path) -> dict[str, list[tuple[str, int, str]]]:
    """(absolute path, label, class name) of every Datum, by the name of its list. UserError if it is anything else."""
    try:
        content = path.read_bytes()
        data = _DatumUnpickler(io.BytesIO(content), len(content)).load()
    # A damaged pickle can raise nearly anything on its way.
    except Exception as error:
        raise UserError(f"{path} is refused: {error or type(error).__name__}.") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is refused: it holds a {type(data).__name__}, not lists of images.")
    return {str(name): [_fields(record, path) for record in _list(part, path)] for name, part in data.items()}


def _list(part: Any, path: Path) -> Iterable[Any]:
    if not isinstance(part, (list, tuple)):
        raise UserError(f"{path} is refused: it holds a {type(part).__name__} where a list of images should be.")
    return part


def _fields(record: Any, path: Path) -> tuple[str, int, str]:
    if isinstance(record, DatumRecord):
        impath, label, name = record._impath, record._label, record._classname
        if isinstance(impath, str) and isinstance(label, int) and isinstance(name, str):
            return impath.replace("\\", "/"), label, name
    raise UserError(f"{path} is refused: it holds something else than images with label and class name.")


def relocate(records: list[tuple[str, int, str]], items: Iterable[Item], path: Path) -> list[Item]:
    """The records as items of the split, wherever the tree was when they were pickled."""
    known = {item.path: item for item in items}
    found = []
    for impath, label, name in records:
        item = _by_longest_suffix(impath, known)
        if item is None:
            raise UserError(f"{path} does not fit the data on disk: {impath} is not in the split.")
        if (item.label, item.classname) != (label, name):
            raise UserError(
                f"{path} does not fit the data on disk: {item.path} is class {label} {name!r} there, "
                f"{item.label} {item.classname!r} in the split."
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
    """The draw in ``shot_K-seed_S.pkl``, checked to be one of `shots` a class from the split `full`."""
    records = read_records(path)
    draw = {}
    for part, count in (("train", shots), ("val", min(shots, 4))) if with_val else (("train", shots),):
        if part not in records:
            raise UserError(f"{path} holds no {part!r} list.")
        draw[part] = relocate(records[part], getattr(full, part), path)
        if len(set(draw[part])) != len(draw[part]):
            raise UserError(f"{path} does not fit the data on disk: an image comes twice.")
        drawn = by_label(draw[part])
        for label, group in by_label(getattr(full, part)).items():
            got, expected = len(drawn.get(label, ())), min(count, len(group))
            if got != expected:
                raise UserError(
                    f"{path} does not fit the data on disk: {got} {part} images of class "
                    f"{group[0].classname!r}, expected {expected}."
                )
    return draw


def same_in_its_order(path: Path, on_disk: dict[str, list[Item]]) -> list[list[Item]]:
    """The lists of `on_disk` in the order in which the pickle has them; UserError unless it has those very items."""
    records = read_records(path)
    ordered = []
    for part, items in on_disk.items():
        found = relocate(records.get(part, []), items, path)
        if len(found) != len(items) or len(set(found)) != len(items):
            got = f"it lists {len(found)} {part} images, the tree holds {len(items)}"
            raise UserError(f"{path} does not fit the data on disk: {got}.")
        ordered.append(found)
    return ordered
