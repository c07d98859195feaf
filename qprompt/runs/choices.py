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
    for path in (config, *([Path(resume) / CONFIG] if resume else [])):
        chosen = read_object(path).get(_CHOSEN) if path.is_file() else None
        if isinstance(chosen, dict) and name in chosen and valid(chosen[name]):
            return _kept(config, name, chosen[name])
    return _kept(config, name, choose())


def _kept(config: Path, name: str, value: Any) -> Any:
    if config.is_file():
        data = read_object(config)
        chosen = data.get(_CHOSEN)
        chosen = chosen if isinstance(chosen, dict) else {}
        if chosen.get(name) != value:
            write_json(config, {**data, _CHOSEN: {**chosen, name: value}})
    return value
