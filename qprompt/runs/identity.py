"""The same-run rule: which settings make two runs the same run."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qprompt import __version__
from qprompt.errors import UserError
from qprompt.io.files import write_json
from qprompt.io.nested import flatten, to_dict
from qprompt.runs.record import SCHEMA, read_object

# These keys say where a run reads and writes and how it gets to its results; they do not change the results.
WITHOUT_EFFECT = (
    "OUTPUT_DIR",
    "RESUME",
    "VERBOSE",
    "TRAIN.PRINT_FREQ",
    "DATASET.ROOT",
    "DATASET.WRITE_CACHE",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.DECODE_CACHE_MB",
    "TEXT_MEMORY_MB",
    "FEATURE_CACHE_MB",
)
# Values of a key that give the same results up to rounding. The default is one of them.
ALIKE = {
    "FEATURE_CACHE": ("off", "auto", "epochs"),
    "INPUT.AUGMENT": ("auto", "cpu", "device"),
    "CUDA_GRAPH": (False, True),
}
# How messages name the arguments of a run.
_ARGUMENTS = {"model_dir": "--model-dir", "load_epoch": "--load-epoch"}


def alike(key: str, a: Any, b: Any) -> bool:
    """Return whether two values of a config key give the same run."""
    same = ALIKE.get(key, ())
    return a == b or (a in same and b in same)


def without_effect(key: str, value: Any) -> bool:
    """Return whether a run with this value of a config key is the same run as with the default."""
    return key in WITHOUT_EFFECT or value in ALIKE.get(key, ())


@dataclass(frozen=True)
class RunSettings:
    """Everything that makes a run this run and not another one.

    Attributes:
        config: The config with dotted keys, without the keys that have no effect.
        arguments: ``mode`` (train or eval), ``model_dir`` and ``load_epoch``.
        changed: The keys of `config` that were set away from their defaults; None where that is not known.
        defaults: The defaults of this version; empty for a run that another version may have recorded.
    """

    config: Mapping[str, Any]
    arguments: Mapping[str, Any]
    changed: Mapping[str, Any] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        cfg: Mapping[str, Any],
        defaults: Mapping[str, Any],
        mode: str,
        model_dir: str = "",
        load_epoch: int | str | None = None,
    ) -> "RunSettings":
        """Return the settings of a run that starts now, from its config and the default config (nested)."""
        ours, plain = _effective(to_dict(cfg)), _effective(to_dict(defaults))
        changed = {key: value for key, value in ours.items() if key not in plain or value != plain[key]}
        return cls(ours, {"mode": mode, "model_dir": model_dir, "load_epoch": load_epoch}, changed, plain)

    @classmethod
    def recorded(
        cls, config: Mapping[str, Any], arguments: Mapping[str, Any], changed: Mapping[str, Any] | None
    ) -> "RunSettings":
        """Return settings from a record; `config` may be nested or flat."""
        return cls(_effective(config), arguments, None if changed is None else _effective(changed))

    @classmethod
    def read(cls, path: Path) -> "RunSettings":
        """Return the settings in a config.json; UserError if it is damaged or has another schema."""
        data = read_object(path)
        settings = data.get("settings")
        settings = settings if isinstance(settings, dict) else {}
        config, arguments, changed = settings.get("config"), settings.get("arguments"), data.get("changed")
        if data.get("schema") != SCHEMA or not isinstance(config, dict) or not isinstance(arguments, dict):
            raise UserError(
                f"{path} has schema {data.get('schema')!r}, this version of qprompt reads {SCHEMA}: "
                "resume the run with the version that wrote it, or choose another --output-dir."
            )
        return cls.recorded(config, arguments, changed if isinstance(changed, dict) else None)

    def write(self, path: Path) -> None:
        """Write a config.json."""
        settings = {"config": dict(self.config), "arguments": dict(self.arguments)}
        changed = dict(sorted((self.changed or {}).items()))
        write_json(path, {"schema": SCHEMA, "qprompt": __version__, "settings": settings, "changed": changed})

    def differences(self, there: "RunSettings") -> dict[str, tuple[Any, Any]]:
        """Return the settings by which this run differs from a recorded one, each with (there, now).

        The record may be of another version: a key that it lacks had its default, and a key that this version lacks
        counts only if it was set.
        """
        was_set = there.config if there.changed is None else there.changed
        before = {**self.defaults, **was_set, **there.config}
        keys = sorted(self.config.keys() | was_set.keys())
        pairs = {key: (before.get(key), self.config.get(key)) for key in keys}
        found = {key: pair for key, pair in pairs.items() if not alike(key, *pair)}
        for name in sorted(self.arguments.keys() | there.arguments.keys()):
            then, now = there.arguments.get(name) or None, self.arguments.get(name) or None
            if then != now and not (name == "model_dir" and _same_path(then, now)):
                found[_ARGUMENTS.get(name, name)] = (then, now)
        return found


def _effective(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(config).items() if key not in WITHOUT_EFFECT}


def _same_path(a: Any, b: Any) -> bool:
    return isinstance(a, str) and isinstance(b, str) and os.path.realpath(a) == os.path.realpath(b)
