"""Rename the classes of a data set: config key DATASET.CLASSNAMES."""

from collections.abc import Callable
from pathlib import Path

from qprompt.data.items import Split
from qprompt.errors import UserError, did_you_mean
from qprompt.io.files import parse_json


def read_renames(path: str) -> Callable[[Split], Split]:
    """Read new class names and return a function that renames the classes of a split.

    Args:
        path: A text file with one name per line in label order, a .json file with a list of the same, or a .json
            file with an object ``{"name in the data": "name in the prompt"}`` for some of the classes.

    Raises:
        UserError: The file cannot be read. The returned function raises it if the names do not match the classes.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        names = parse_json(text) if path.endswith(".json") else text.splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"DATASET.CLASSNAMES {path!r} cannot be read: {error}.") from None
    values = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise UserError(f"DATASET.CLASSNAMES {path}: expected a list or an object of names.")
    if isinstance(names, dict):
        return lambda split: _rename(split, names, path)
    listed = [name.strip() for name in values if name.strip()]
    return lambda split: _name_in_order(split, listed, path)


def _rename(split: Split, names: dict[str, str], path: str) -> Split:
    known = {item.classname for item in split.train}
    for old in names:
        if old not in known:
            raise UserError(f"DATASET.CLASSNAMES {path}: the data has no class {old!r}.{did_you_mean(old, known)}")
    return Split(*([i._replace(classname=names.get(i.classname, i.classname)) for i in part] for part in split))


def _name_in_order(split: Split, names: list[str], path: str) -> Split:
    count = 1 + max((item.label for item in split.train), default=-1)
    if len(names) != count:
        raise UserError(f"DATASET.CLASSNAMES {path} holds {len(names)} names, the data has {count} classes.")
    return Split(*([i._replace(classname=names[i.label]) for i in part] for part in split))
