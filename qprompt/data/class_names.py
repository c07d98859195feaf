"""Class names that the user gives: in a file or typed, and config key DATASET.CLASSNAMES, which renames classes."""

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

from qprompt.data.items import Split
from qprompt.errors import UserError, did_you_mean
from qprompt.io.files import parse_json
from qprompt.io.text import read_text


def read_names(path: str, what: str = "the file of class names") -> list[str] | dict[str, str]:
    """Read class names.

    Args:
        path: A text file with one name per line, or JSON: a list of names, or an object
            ``{"name in the data": "name in the prompt"}``.
        what: How errors name the file.

    Returns:
        The names, without empty ones, in Unicode's composed form (NFC).

    Raises:
        UserError: The file cannot be read, or holds JSON of another kind.
    """
    try:
        text = read_text(Path(path).expanduser())
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path!r} cannot be read: {error}.") from None
    except UserError as error:
        raise UserError(f"{what} {error}") from None
    names = from_json(text, f"{what} {path}", must=path.lower().endswith(".json"))
    if names is not None:
        return names
    names = clean(text.splitlines())
    table = path.lower().endswith((".csv", ".tsv")) and any(mark in text for mark in ",;\t")
    if table or (len(names) > 1 and _has_more(names)) or path.lower().endswith((".yaml", ".yml")):
        raise UserError(f"{what} {path}: expected one name per line and nothing else, got {names[0]!r}.")
    return names


def _has_more(names: list[str]) -> bool:
    """Whether all lines have more than a name: numbers, bullets, quotes or columns; or a line is a comment."""
    numbered = (
        all(re.match(rf"0*{number}([\s,:;)]|\.\s)", name) for number, name in enumerate(names, first))
        for first in (0, 1)
    )
    marked = (r"n\d{8}\s", r"[-*\u2022]\s", r"([\"']).*\1,?\Z", r"[^\t]+\t")
    return (
        any(numbered)
        or any(all(re.match(mark, name) for name in names) for mark in marked)
        or any(re.match(r"(#|//)\s", name) for name in names)
    )


def clean(names: list[str]) -> list[str]:
    """Return names in Unicode's composed form, without surrounding spaces and without empty ones."""
    return [unicodedata.normalize("NFC", name.strip()) for name in names if name.strip()]


def from_json(text: str, where: str, must: bool = False) -> list[str] | dict[str, str] | None:
    """Return the names in a JSON list or object; None if `text` is not JSON, UserError if it `must` be."""
    start = text.lstrip()[:1]
    if not must and start not in ("[", "{"):
        return None
    try:
        names = parse_json(text)
    except ValueError as error:
        if must:
            raise UserError(f"{where} cannot be read as JSON: {error}.") from None
        return None
    values = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(values, list):
        raise UserError(f"{where}: expected a list or an object of names, got {json.dumps(names)[:60]}.")
    for value in values:
        if not isinstance(value, str):
            holds = "holds a dict with" if isinstance(names, dict) else "hold"
            raise UserError(
                f"{where} {holds} {value!r}, a {type(value).__name__}: expected a list or an object of names."
            )
    if isinstance(names, dict):
        return {old: unicodedata.normalize("NFC", new.strip()) for old, new in names.items()}
    return clean(values)


def read_renames(path: str) -> Callable[[Split], Split]:
    """Read new class names (see `read_names`; a list is in label order) and return a function that renames classes.

    Raises:
        UserError: The file cannot be read. The returned function raises it if the names do not match the classes.
    """
    names = read_names(path, "DATASET.CLASSNAMES")
    if isinstance(names, dict):
        return lambda split: _rename(split, names, path)
    return lambda split: _name_in_order(split, names, path)


def _rename(split: Split, names: dict[str, str], path: str) -> Split:
    known = {item.classname for item in split.train}
    composed = {unicodedata.normalize("NFC", name): name for name in known}
    renamed = {}
    for old, new in names.items():
        own = old if old in known else composed.get(unicodedata.normalize("NFC", old))
        if own is None:
            raise UserError(f"DATASET.CLASSNAMES {path}: the data has no class {old!r}.{did_you_mean(old, known)}")
        renamed[own] = new
    return Split(*([i._replace(classname=renamed.get(i.classname, i.classname)) for i in part] for part in split))


def _name_in_order(split: Split, names: list[str], path: str) -> Split:
    count = 1 + max((item.label for item in split.train), default=-1)
    if len(names) != count:
        raise UserError(f"DATASET.CLASSNAMES {path} holds {len(names)} names, the data has {count} classes.")
    return Split(*([i._replace(classname=names[i.label]) for i in part] for part in split))
