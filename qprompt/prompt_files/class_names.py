"""Class names as people give them: a list, "cat,dog", or a file with one name per line."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from qprompt.data.class_names import from_json, read_names
from qprompt.errors import UserError

ClassNames: TypeAlias = str | os.PathLike[str] | Iterable[str]
_FILES = (".txt", ".json", ".csv", ".tsv", ".names", ".list")
_EXPECTED = "expected a list of names, 'cat,dog', or a file with one name per line"


def class_names(given: Any) -> list[str]:
    """Return the class names that `given` describes.

    Args:
        given: A list or tuple of names; text with commas, "cat,dog", or a JSON list; or the path of a file with one
            name per line or a JSON list (`qprompt.data.class_names.read_names`). Text without a comma is a path.

    Raises:
        UserError: There is no such file, it cannot be read, there is no name, or two names give the same prompt.
    """
    if isinstance(given, (str, os.PathLike)):
        names = _of_text(given)
    elif isinstance(given, Iterable) and not isinstance(given, (bytes, Mapping, set, frozenset)):
        names = list(given)
    else:
        raise UserError(f"the class names are a {type(given).__name__}: {_EXPECTED}.")
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"the class names hold {name!r}, a {type(name).__name__}: {_EXPECTED}.")
    names = [name.strip() for name in names]
    if not names or not all(names):
        raise UserError(f"the class names hold {'an empty name' if names else 'no name'}: {_EXPECTED}.")
    seen: dict[str, str] = {}
    for name in names:
        prompt = " ".join(name.replace("_", " ").lower().split())  # all that CLIP's tokenizer tells apart
        if prompt in seen:
            both = f"{name} twice" if seen[prompt] == name else f"{seen[prompt]!r} and {name!r}, one prompt for CLIP"
            raise UserError(f"the class names hold {both}: expected different names.")
        seen[prompt] = name
    return names


def _of_text(given: "str | os.PathLike[str]") -> list[Any]:
    text = os.fspath(given)
    path = Path(text).expanduser()
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character
        is_file = False
    if is_file:
        return _of_file(path)
    if isinstance(given, os.PathLike) or "," not in text or text.lower().endswith(_FILES):
        raise UserError(f"no file {text!r} of class names. Names themselves are separated by commas: 'cat,dog'.")
    if text.lstrip().startswith("[") and (names := from_json(text, "the class names")) is not None:
        return list(names)
    return [name for name in text.split(",") if name.strip()]


def _of_file(path: Path) -> list[Any]:
    names = read_names(str(path), "the class names in")
    if not isinstance(names, list):
        raise UserError(f"{path} holds a dict, expected a JSON list of class names.")
    if len(names) == 1 and "," in names[0]:
        raise UserError(f"{path} holds one name, {names[0]!r}: expected one per line.")
    return names
