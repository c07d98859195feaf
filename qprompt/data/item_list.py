"""Read a list of images as CSV, TSV, JSON or JSON lines: path, class and optionally the part of the split."""

import csv
import logging
import shlex
import zipfile
from pathlib import Path

from qprompt.data.class_folders import PARTS
from qprompt.data.faults import DataFaults, Fault, RowFaults
from qprompt.data.fewshot import Source
from qprompt.data.findings import check_command
from qprompt.data.image_folder import complete
from qprompt.data.items import Item, Split, by_label
from qprompt.data.list_rows import EXAMPLE, Row, read_rows, table
from qprompt.data.spelling import as_on_disk, in_order
from qprompt.data.split_file import read_split
from qprompt.errors import UserError
from qprompt.io.files import parse_json
from qprompt.io.text import read_text

logger = logging.getLogger(__name__)


def item_list(file: Path, root: Path) -> Source:
    """Return the source of a data set with images below `root` that are listed in `file`."""
    return Source(image_dir=root, read=lambda rng: read_item_list(file, root))


def read_item_list(file: Path, root: Path) -> Split:
    """Read the split that a list describes.

    Args:
        file: A .csv, .tsv, .json or .jsonl file; a .json file may also be a ``split_zhou`` file.
        root: The folder that paths are relative to.

    Raises:
        DataFaults: Rows are wrong, a class has no training images, ...; each fault names its first row.
        UserError: The file is no list.
    """
    suffix = file.suffix.lower()
    if suffix in (".xlsx", ".xls", ".ods", ".numbers") or file.is_file() and zipfile.is_zipfile(file):
        raise UserError(f"DATASET.LIST {str(file)!r} is a spreadsheet or an archive: save it as CSV.")
    if suffix not in (".csv", ".tsv", ".json", ".jsonl"):
        raise UserError(f"DATASET.LIST {str(file)!r}: expected a .csv, .tsv, .json or .jsonl file.")
    try:
        text = read_text(file)
        if suffix == ".json":
            rows = parse_json(text)
            if isinstance(rows, dict) and rows.keys() >= set(PARTS):
                return _on_disk(read_split(file), root)
        else:
            rows = table(text, suffix)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"DATASET.LIST {file} cannot be read: {error}.") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        shape = EXAMPLE if suffix in (".csv", ".tsv") else '{"path": "cat/1.jpg", "classname": "cat", "split": "train"}'
        raise UserError(f"DATASET.LIST {file}: expected rows with {shape} (split is optional).")
    wrong = RowFaults(str(file))
    found = read_rows(rows, str(file), root, wrong)
    on_disk = as_on_disk(root, [row.path for row in found])
    found = _once([row._replace(path=path) for row, path in zip(found, on_disk, strict=True)], wrong)
    moved = [row for row in found if row.moved_from]
    if moved:
        shown = (moved[0].moved_from, moved[0].path)
        logger.info("%s: %d paths of another place, such as %s, are read as %s.", file, len(moved), *shown)
    faults = wrong.faults()
    items = _items(found, str(file), faults)
    faults += _faults_of_classes(items, str(file)) if found else []
    if faults:
        command = f"{check_command('ImageList', root)} --list {shlex.quote(str(file))}"
        raise DataFaults(faults, items, command)
    return complete(items, str(file))


def _on_disk(split: Split, root: Path) -> Split:
    """The split with the paths of files in the Unicode form that they have on disk."""
    parts = []
    for part in split:
        paths = as_on_disk(root, [item.path for item in part])
        parts.append([item._replace(path=path) for item, path in zip(part, paths, strict=True)])
    return Split(*parts)


def _once(rows: list[Row], wrong: RowFaults) -> list[Row]:
    """The rows whose image was not listed before."""
    seen: dict[str, Row] = {}
    for row in rows:
        other = seen.setdefault(row.path, row)
        if other is row:
            continue
        same = other.part == row.part
        where = f"twice in {row.part}" if same else f"in {other.part} and in {row.part}"
        kind, advice = f"twice {same}", f"Delete row {row.number} or row {other.number}, which is the first."
        if (other.name, other.label) != (row.name, row.label):
            kind, advice = "two classes", f"Delete row {row.number} or row {other.number}: at most one class is right."
            classes = [repr(one.name or one.label) for one in (other, row)]
            where += f", of class {classes[0]} and {classes[1]}"
        wrong.add(kind, row.number, f": {row.path} is listed {where}.", advice)
    return list(seen.values())


def _items(rows: list[Row], where: str, faults: list[Fault]) -> dict[str, list[Item]]:
    """The items of each part, with labels from 0; appends what is wrong with the classes to `faults`."""
    wrong = RowFaults(where)
    labels = {row.label for row in rows if row.label is not None}
    first = min(labels, default=0)
    numbers = list(range(first, first + len(labels)))
    if first not in (0, 1):
        advice = "Number the classes from 0, without gaps."
        faults.append(Fault(f"{where}: the smallest label is {first}, expected 0 (or 1).", advice))
    elif gap := sorted(set(numbers) - labels):
        advice = (
            "Number the classes without gaps, or name them in a column 'classname' and delete the column of numbers."
        )
        faults.append(Fault(f"{where}: labels go up to {max(labels)}, but no row has label {gap[0]}.", advice))
    elif first == 1:
        logger.info("%s: labels start at 1; they are used as 0 to %d.", where, max(labels) - 1)
    if labels:
        order: dict[str | int, int] = {label: position for position, label in enumerate(sorted(labels))}
    else:
        order = {name: position for position, name in enumerate(in_order({row.name for row in rows}))}
    items: dict[str, list[Item]] = {part: [] for part in PARTS}
    named: dict[int, Row] = {}
    for row in rows:
        label = order[row.label if row.label is not None else row.name]
        name = row.name or str(label)
        other = named.setdefault(label, row)
        if other.name != row.name:
            message = f": label {row.label} is called {row.name!r}, but {other.name!r} in row {other.number}."
            wrong.add("name", row.number, message, "Give each label one name.")
            continue
        items[row.part].append(Item(row.path, label, name))
    faults += wrong.faults()
    return items


def _faults_of_classes(items: dict[str, list[Item]], where: str) -> list[Fault]:
    """Classes that cannot be trained or tested."""
    groups = by_label(items["train"])
    if not groups:
        return [Fault(f"{where} has no training images.", "Write train into the column 'split' of some rows.")]
    faults = []
    if len(groups) == 1:
        (only,) = groups.values()
        text = f"{where} has one class of training images, {only[0].classname!r}, expected at least 2."
        faults.append(Fault(text, "List images of other classes."))
    for label, group in by_label([*items["val"], *items["test"]]).items():
        if label not in groups:
            text = f"{where}: {group[0].path} is of class {group[0].classname!r}, which has no training image."
            advice = f"List training images of that class, or delete its {len(group)} rows."
            faults.append(Fault(text, advice))
    if not items["val"] and not items["test"]:
        for group in groups.values():
            if len(group) == 1:
                text = f"{where}: class {group[0].classname!r} has one image, expected at least 2 (train and test)."
                faults.append(Fault(text, "List more images of that class, or delete its row."))
    return faults
