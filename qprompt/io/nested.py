"""Nested dicts of settings: as plain values, with dotted keys, and their differences."""

from collections.abc import Mapping
from typing import Any


def to_dict(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config node as plain dicts and lists, ready for JSON and YAML; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    return plain(node)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one dict: ``{"A": {"B": 1}}`` becomes ``{"A.B": 1}``. Empty dicts vanish."""
    flat: dict[str, Any] = {}
    nodes = [(prefix, iter(data.items()))]  # a stack: JSON can be nested deeper than Python can recurse
    while nodes:
        prefix, items = nodes[-1]
        for name, value in items:
            if isinstance(value, Mapping):
                nodes.append((f"{prefix}{name}.", iter(value.items())))
                break
            flat[f"{prefix}{name}"] = value
        else:
            nodes.pop()
    return flat


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys that differ between two nested dicts, each with (ours, theirs); None stands for absent."""
    a, b = flatten(ours), flatten(theirs)
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}
