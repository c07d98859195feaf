"""Finished runs, read from their metrics.json files. A file that cannot be read is left out with a warning."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qprompt.data.tree import printable
from qprompt.errors import UserError
from qprompt.runs.folder import is_unfinished
from qprompt.runs.metrics import Metrics, read_as
from qprompt.runs.record import METRICS

# Your own data sets all have the same name; the value of another key says which one it was.
_OWN_DATA = {"ImageList": "DATASET.LIST", "ImageFolder": "DATASET.ROOT"}


@dataclass(frozen=True, kw_only=True)
class Run(Metrics):
    """A finished run in its folder. Accuracies are in percent, times in seconds."""

    folder: Path

    @property
    def accuracy(self) -> float:
        """Percent."""
        return float(self.results["accuracy"])

    @property
    def accuracy_by_epoch(self) -> tuple[tuple[int, float], ...]:
        """(epoch, accuracy) of every checkpoint, if all were evaluated."""
        return tuple(sorted((point["epoch"], float(point["accuracy"])) for point in self.curve))

    @property
    def loaded_epoch(self) -> int | None:
        """The epoch that an evaluation loaded, if it was asked for one."""
        return self.load_epoch if isinstance(self.load_epoch, int) else None


def read_runs(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[Run], list[str]]:
    """Read every finished run in `paths`.

    Args:
        paths: Folders, which are searched to the bottom, or metrics.json files.

    Returns:
        The runs, and warnings about damaged files, files of another program or schema, and unfinished runs.

    Raises:
        UserError: A path does not exist, or there is no readable run at all.
    """
    runs: dict[Path, Run] = {}
    warnings: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"no {path}: give output folders of runs, or their {METRICS} files.")
        for file in [path] if path.is_file() else _find(path, warnings):
            try:
                runs.setdefault(file.resolve(), read_run(file))
            except UserError as error:
                warnings.append(f"left out: {error}")
    if not runs:
        reason = f" ({'; '.join(reversed(warnings))})" if warnings else ""
        raise UserError(
            f"no finished run in {', '.join(map(str, paths))}{reason}. "
            f"A run writes {METRICS} into its --output-dir when it ends."
        )
    return list(runs.values()), warnings


def leak_warnings(runs: Sequence[Run]) -> list[str]:
    """Return a warning for each reason why accuracies of runs are other ones than they seem, with the first run."""
    by_leak: dict[str, list[Run]] = {}
    for run in runs:
        for leak in run.leaks:
            by_leak.setdefault(leak, []).append(run)
    return [
        f"{found[0].folder}{f' and {len(found) - 1} more' if found[1:] else ''}: {leak}."
        for leak, found in by_leak.items()
    ]


def _find(folder: Path, warnings: list[str]) -> Iterator[Path]:
    """metrics.json files under `folder`, links followed once each; unfinished runs go to `warnings`."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        if METRICS in files:
            yield Path(parent, METRICS)
        elif is_unfinished(Path(parent)):
            warnings.append(f"left out: {parent} is not finished.")


def read_run(file: Path) -> Run:
    """Read the run that a metrics.json describes; UserError if it is damaged or has no accuracy."""
    run = read_as(Run, file, folder=file.parent)
    if run.results.get("accuracy") is None:
        raise UserError(f"{file} has no accuracy: the run was not tested.")
    which = run.flat_config.get(_OWN_DATA.get(run.dataset, ""))
    return (
        replace(run, dataset=f"{run.dataset} {printable(Path(which).stem)}")
        if isinstance(which, str) and which
        else run
    )
