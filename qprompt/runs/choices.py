"""What a run chose by itself where its config leaves it open, kept so that a resumed run does the same.

The choices stand under "chosen" in config.json. A run that starts in a folder without a checkpoint writes a new
config.json, and chooses again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qprompt.io.files import write_json
from qprompt.runs.record import CONFIG, read_object

_CHOSEN = "chosen"


def chosen(output_dir: str, name: str) -> Any:
    """Return what the run in this folder chose; None if that is not known."""
    config = Path(output_dir) / CONFIG
    choices = read_object(config).get(_CHOSEN) if config.is_file() else None
    return choices.get(name) if isinstance(choices, dict) else None


def choose_once(
    output_dir: str, name: str, choose: Callable[[], Any], valid: Callable[[Any], bool], resume: str = ""
) -> Any:
    """Return what the run in this folder chose before; otherwise choose, and write it down.

    Args:
        output_dir: output folder of the run; without a config.json nothing is kept.
        name: of the choice.
        choose: returns a number or a text.
        valid: whether a value can be a choice; others in the file are not used.
        resume: output folder of another run that this one goes on from, or "".
    """
    config = Path(output_dir) / CONFIG
    for folder in (output_dir, *([resume] if resume else [])):
        if (value := chosen(folder, name)) is not None and valid(value):
            return _kept(config, name, value)
    return _kept(config, name, choose())


def _kept(config: Path, name: str, value: Any) -> Any:
    if config.is_file():
        data = read_object(config)
        others = data.get(_CHOSEN)
        others = others if isinstance(others, dict) else {}
        if others.get(name) != value:
            write_json(config, {**data, _CHOSEN: {**others, name: value}})
    return value
