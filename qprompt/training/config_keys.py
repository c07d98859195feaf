"""The table of config keys (assets/config_keys.yaml): checking values, and ``train.py --help-config``."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

from yacs.config import CfgNode

from qprompt.errors import UserError, did_you_mean
from qprompt.quantization import quantizers
from qprompt.quantization.config import CHOICES
from qprompt.runs import config

_QUANT = "TRAINER.QUANT."


@dataclass(frozen=True)
class Rule:
    """What a key is, and what its value must be besides the type of its default.

    Attributes:
        help: in a few words.
        choices: the value, or each entry of a list, is one of these.
        min, max: bounds of numbers, or of each entry of a list.
        above: the numbers are greater.
        length: number of entries of a list.
        pair: one number stands for two.
        odd: whole numbers are odd.
        ascending: the entries of a list do not decrease.
    """

    help: str
    choices: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    above: float | None = None
    length: int | None = None
    pair: bool = False
    odd: bool = False
    ascending: bool = False

    def expected(self, default: Any) -> str:
        """Return in words what is expected of a value."""
        several = isinstance(default, (list, tuple))
        entries = [e for e in default if e is not None] if several else [default]
        kind = entries[0] if entries else (0 if (self.min, self.max, self.above) != (None, None, None) else "")
        if isinstance(kind, bool):
            return "True or False"
        if self.choices:
            return f"{'names among' if several else 'one of'} {', '.join(self.choices)}"
        if isinstance(kind, str):
            return "a list of texts" if several else "a text"
        noun = "number" if isinstance(kind, float) else f"{'odd' if self.odd else 'whole'} number"
        bounds = []
        if self.above is not None:
            bounds.append(f"above {self.above:g}")
        if self.min is not None:
            bounds.append(f"of at least {self.min:g}")
        if self.max is not None:
            bounds.append(f"of at most {self.max:.10g}")
        if several:
            words = f"{self.length} {noun}s" if self.length else f"{noun}s"
            words += ", the smaller first," if self.ascending else ""
        else:
            words = f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
        return " ".join([words, " and ".join(bounds)]).strip()

    def accepts(self, value: Any, default: Any) -> bool:
        """Return whether a value, of the type of the default, is allowed."""
        if not isinstance(value, (list, tuple)):
            return self._accepts_entry(value, default)
        kind = default[0] if isinstance(default, (list, tuple)) and default else None
        if self.length not in (None, len(value)) or not all(self._accepts_entry(entry, kind) for entry in value):
            return False
        return not self.ascending or list(value) == sorted(value)

    def _accepts_entry(self, value: Any, default: Any) -> bool:
        if self.choices:
            return value in self.choices
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and not math.isfinite(value):
            return False
        if isinstance(default, (int, float)) and not isinstance(default, bool) and not number:
            return False
        if isinstance(default, int) and isinstance(value, float) and not isinstance(default, bool):
            return False
        bounded = (self.min, self.max, self.above) != (None, None, None)
        if not number:
            return not bounded
        return (
            (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
            and (self.above is None or value > self.above)
            and (not self.odd or value % 2 == 1)
        )


@cache
def rules() -> dict[str, Rule]:
    """Return the rules by key or pattern, in the order of the table: an earlier one goes before a later one."""
    text = resources.files("qprompt.assets").joinpath("config_keys.yaml").read_text(encoding="utf-8")
    table = config.parse_yaml(text, "config_keys.yaml")
    found = {key: Rule(**{**entry, "choices": tuple(entry.get("choices", ()))}) for key, entry in table.items()}
    for field, choices in {**CHOICES, "method": tuple(quantizers.REGISTRY)}.items():
        key = _QUANT + field.upper()
        found[key] = replace(found[key], choices=choices)
    return found


def rule_of(key: str) -> Rule | None:
    """Return the rule of a key; None for a key of others, such as a trainer in a checkout."""
    table = rules()
    return table.get(key) or next((rule for pattern, rule in table.items() if fnmatchcase(key, pattern)), None)


def check_values(cfg: CfgNode, defaults: CfgNode) -> None:
    """Raise UserError for every value that the table does not allow. Complete pairs that are given as one number.

    Args:
        cfg: the config of a run; its types are those of the defaults.
        defaults: the default config.
    """
    wrong = []
    for key, value, default in _values(cfg, defaults):
        rule = rule_of(key)
        if rule is None or value is None:
            continue
        if rule.pair and isinstance(value, tuple) and len(value) == 1:
            value = (*value, *value)
            config.set_key(cfg, key, value, "the default")
        if not rule.accepts(value, default) and value != default:
            hint = did_you_mean(value, rule.choices) if isinstance(value, str) else ""
            wrong.append(f"{key} is {value!r}, expected {rule.expected(default)}.{hint}")
    if wrong:
        more = f" ('train.py --help-config {wrong[0].partition(' ')[0]}' describes it)"
        raise UserError(" ".join(wrong) + more)


def _values(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name, value in cfg.items():
        default = defaults.get(name)
        if isinstance(value, CfgNode):
            yield from _values(value, default if isinstance(default, CfgNode) else CfgNode(), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, default if default is not None else value


def describe(defaults: CfgNode, key: str = "") -> str:
    """Return a table of config keys: value expected, default, meaning.

    Args:
        defaults: the default config.
        key: a key, or a group of keys such as OPTIM; by default all.

    Raises:
        UserError: there is no such key or group.
    """
    rows = [(name, default) for name, default, _ in _values(defaults, defaults)]
    chosen = [row for row in rows if not key or row[0] == key or row[0].startswith(f"{key}.")]
    if not chosen:
        known = [name for name, _ in rows]
        groups = {name[:i] for name in known for i, letter in enumerate(name) if letter == "."}
        raise UserError(f"no config key {key}.{did_you_mean(key, [*known, *sorted(groups)])}")
    lines = []
    for name, default in chosen:
        rule = rule_of(name) or Rule("of the installed Dassl")
        lines += [f"{name}  (default {default!r})", f"    {rule.help}: {rule.expected(default)}"]
    return "\n".join(lines)
