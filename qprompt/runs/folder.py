"""The output folder of a run: which run lives in it, and who may write to it."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from qprompt.errors import AlreadyFinished, UserError
from qprompt.io.files import remove_unfinished
from qprompt.io.locks import Locked, hold
from qprompt.runs.identity import RunSettings
from qprompt.runs.metrics import Metrics, read_metrics
from qprompt.runs.record import CONFIG, METRICS, read_object

_LOCK = ".lock"


def is_unfinished(folder: Path) -> bool:
    """Return whether a run of QPrompt was started in `folder` and has not finished."""
    if (folder / METRICS).is_file() or not (folder / CONFIG).is_file():
        return False
    with contextlib.suppress(UserError):
        return read_object(folder / CONFIG).keys() >= {"schema", "settings"}  # other programs write config.json too
    return False


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run saved a checkpoint in `folder`."""
    return any(folder.glob("*/model*.pth.tar*"))


def finished(folder: Path, settings: RunSettings) -> Metrics | None:
    """Return the metrics of the run with these settings; None if it is unfinished or was never started in `folder`.

    Raises:
        UserError: `folder` holds a run with other settings, or a damaged record.
    """
    metrics, config = folder / METRICS, folder / CONFIG
    done = read_metrics(metrics) if metrics.exists() else None
    if done is None and not has_checkpoint(folder):
        return None  # a run that ended before its first checkpoint has nothing to lose: the folder belongs to nobody
    there = RunSettings.read(config) if config.exists() else done and done.settings
    differences = settings.differences(there) if there else {}
    if differences:
        shown = "; ".join(f"{key}: {then!r} there, {now!r} now" for key, (then, now) in differences.items())
        raise UserError(
            f"{folder} holds {'a finished' if done else 'an unfinished'} run with other settings ({shown}): "
            "use the same settings, choose another output folder, or delete this one."
        )
    return done


@contextlib.contextmanager
def claim(output_dir: str, settings: RunSettings) -> Iterator[None]:
    """Hold `output_dir` for the run with these settings; an unfinished run with the same settings is resumed.

    Raises:
        AlreadyFinished: The folder holds this run, finished.
        UserError: Another run is writing to the folder, its name is no text, or `finished` refuses it.
    """
    folder = Path(output_dir)
    if any("\ud800" <= character <= "\udfff" for character in output_dir):  # TensorBoard's writer takes no such name
        other = shlex.quote(re.sub("[\ud800-\udfff]", "_", output_dir))
        raise UserError(f"the name of the output folder, {ascii(output_dir)}, is not UTF-8: type --output-dir {other}.")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(hold(folder / _LOCK))
        except Locked:
            raise UserError(
                f"another run is writing to {folder}: wait for it or choose another --output-dir."
            ) from None
        except OSError as error:
            raise UserError(f"cannot write to --output-dir {folder}: {error.strerror}.") from None
        done = finished(folder, settings)
        if done is not None:
            raise AlreadyFinished(
                f"{folder} holds a finished run ({done.trainer} on {done.dataset}, seed {done.seed}, "
                f"accuracy {done.accuracy}): choose another --output-dir or delete that folder."
            )
        for part in (folder, *folder.glob("*/")):
            if part == folder or not (part / _LOCK).exists():  # another run's folder may lie in this one
                remove_unfinished(part)
        if not (folder / CONFIG).exists() or not has_checkpoint(folder):
            settings.write(folder / CONFIG)
        yield
