"""Merging files and options into a config, with an error that names every mistake.

Precedence, lowest first: defaults, data set file, trainer file, command-line flags, ``KEY VALUE`` pairs.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from qprompt.errors import UserError, did_you_mean


def keys(cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of `cfg` that has a value; nodes are left out."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def merge_file(cfg: CfgNode, path: str) -> None:
    """Merge one YAML file into `cfg`.

    Raises:
        UserError: The file is missing or malformed, or has an unknown key or a value of a wrong type.
    """
    for key, value in _leaves(_read_file(path), path):
        # Like yacs: the text "(224, 224)" is a tuple, which YAML has no other notation for.
        set_key(cfg, key, _decoded(value), path)


def value_in_file(path: str, key: str) -> Any:
    """Return the value of a dotted key in a YAML file; None if the file does not set it."""
    return next((value for name, value in _leaves(_read_file(path), path) if name == key), None)


def _read_file(path: str) -> dict[Any, Any]:
    if not Path(path).is_file():
        raise UserError(f"no config file {path!r}. See configs/datasets/ and configs/trainers/.")
    data = parse_yaml(Path(path).read_bytes(), path)
    if data is not None and not isinstance(data, dict):
        raise UserError(f"{path} contains a {type(data).__name__}, expected 'KEY: value' lines.")
    return data or {}


def merge_options(cfg: CfgNode, options: Sequence[str]) -> None:
    """Merge ``KEY VALUE KEY VALUE ...`` from the command line into `cfg`; UserError for what does not fit."""
    check_pairs(options)
    for key, text in zip(options[::2], options[1::2], strict=True):
        set_key(cfg, key, _decoded(text), "the command line")


def check_pairs(options: Sequence[str]) -> None:
    """Raise UserError for options that are not ``KEY VALUE KEY VALUE ...``."""
    for key in options[::2]:
        if key.startswith("-"):
            raise UserError(f"{key} comes after the first KEY VALUE pair: put all --options before it.")
    if len(options) % 2:
        raise UserError(f"config options come as KEY VALUE pairs, got an odd number of words: {' '.join(options)}")


def parse_yaml(text: str | bytes, where: str) -> Any:
    """Parse a YAML text.

    Args:
        text: The text.
        where: What messages call it, such as the name of a file.

    Raises:
        UserError: The text is not valid YAML, or it uses aliases.
    """
    try:
        return yaml.load(text, _Loader)
    # Invalid dates and numbers, and deep nesting, raise other errors than YAMLError.
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, AttributeError, TypeError) as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few lines of them can expand to gigabytes, or without end
            raise yaml.YAMLError(f"aliases (*{self.peek_event().anchor}) are not supported: write the value out")
        return super().compose_node(parent, index)


def _decoded(value: Any) -> Any:
    """`value`; a text that is a Python literal is evaluated, like in yacs."""
    try:
        return CfgNode._decode_cfg_value(value)
    except (TypeError, MemoryError, RecursionError):  # "{[]: 1}", "(((((...": not literals, hence texts
        return value


def _leaves(data: dict[Any, Any], path: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: {prefix}{name!r} is not a config key.")
        if isinstance(value, dict):
            yield from _leaves(value, path, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def set_key(cfg: CfgNode, key: str, value: Any, where: str) -> None:
    """Set one dotted key.

    Args:
        cfg: The config.
        key: The key, such as "OPTIM.LR".
        value: Its new value.
        where: Where the value comes from, for messages.

    Raises:
        UserError: There is no such key, or the type of `value` does not fit that of the default.
    """
    *parents, name = key.split(".")
    node: Any = cfg
    for parent in parents:
        node = node.get(parent) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or name not in node:
        raise UserError(f"{where}: no config key {key}.{did_you_mean(key, keys(cfg))}")
    default = node[name]
    if isinstance(default, CfgNode):
        raise UserError(f"{where}: {key} is a group of keys: set one of them, e.g. {next(keys(default, key + '.'))}.")
    node[name] = _as_type_of(default, value, key, where)


def _as_type_of(default: Any, value: Any, key: str, where: str) -> Any:
    """`value` in the type of `default`. Only harmless conversions: 1 -> 1.0, list <-> tuple, 2 -> "2"."""
    if default is None or type(default) is type(value):
        return value
    if isinstance(default, float) and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as a string
        except (ValueError, OverflowError):
            pass
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(default)(value)
    if isinstance(default, tuple) and not isinstance(value, (dict, bool)):
        return (value,)
    if isinstance(default, str) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    kind = "an int" if isinstance(default, int) and not isinstance(default, bool) else f"a {type(default).__name__}"
    raise UserError(f"{where}: {key} expects {kind} (e.g. {default!r}), got {value!r}.")
