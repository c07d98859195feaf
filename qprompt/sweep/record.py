"""What a run's folder holds: nothing yet, an unfinished run, this run finished, or another run."""

import json
import os
from pathlib import Path
from typing import Any

from qprompt.errors import UserError
from qprompt.io import nested
from qprompt.runs import config
from qprompt.runs.record import run_settings
from qprompt.sweep.plan import Run, default_cfg


def finished(run: Run) -> dict[str, Any] | None:
    """metrics.json of `run` when it is finished, None when it is still to do.

    Raises UserError, naming what differs, when the folder holds a run with other settings.
    """
    done = _read(Path(run.folder) / "metrics.json")
    if done is not None:
        differs = _differences(run, done.get("config") or {}, done.get("changed") or {})
        if run.after and not _same_path(str(done.get("model_dir") or ""), run.after):
            differs["--model-dir"] = (done.get("model_dir"), run.after)
        if run.after and str(done.get("load_epoch")) != str(run.load_epoch):
            differs["--load-epoch"] = (done.get("load_epoch"), run.load_epoch)
    else:
        begun = _read(Path(run.folder) / "config.json")
        if begun is None:
            return None
        differs = _differences(run, (begun.get("settings") or {}).get("config") or {}, begun.get("changed") or {})
    if differs:
        shown = "; ".join(f"{key}: {there!r} there, {now!r} now" for key, (there, now) in sorted(differs.items()))
        raise UserError(
            f"{run.folder} holds a run with other settings ({shown}): "
            "use the same settings, another output, or delete that folder."
        )
    return done


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}). Delete it if it is a leftover.") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object. Delete it if it is a leftover.")
    return data


def _differences(run: Run, there: dict[str, Any], changed: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, each with (there, now). A key that one of the two versions of QPrompt doesn't know
    differs only where it has another value than the default."""
    there, changed, now, default = (
        run_settings(d, {})["config"] for d in (there, changed, run.expected, nested.to_dict(default_cfg()))
    )
    before = {k: there.get(k, default.get(k)) for k in now}
    found = {k: (before[k], v) for k, v in now.items() if not config.alike(k, before[k], v)}
    return found | {k: (v, None) for k, v in changed.items() if k not in now}


def _same_path(a: str, b: str) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)
