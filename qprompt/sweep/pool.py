"""Run a plan on this machine: in parallel, evaluations after their training runs, and failures collected.

Every run is a separate process group. So Ctrl-C reaches only the sweep, which then ends all of them.
"""

import contextlib
import dataclasses
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from qprompt.errors import UserError
from qprompt.sweep import process
from qprompt.sweep.plan import Run
from qprompt.sweep.progress import Progress
from qprompt.sweep.signals import Signals
from qprompt.sweep.slots import Slot

_GRACE_S = 10.0  # from SIGTERM to SIGKILL
_TAIL_LINES = 5
_USER_ERROR = 2  # train.py's exit code for wrong settings: a second try would fail too


@dataclasses.dataclass
class _Started:
    run: Run
    slot: Slot
    log: Path
    process: BaseProcess
    since: float


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that failed, with its exit code (negative: a signal) and the last lines of its log."""

    run: Run
    code: int | None
    log: Path | None
    tail: tuple[str, ...]


class Pool:
    """Runs a list of runs over slots.

    Args:
        runs: The runs, each after the one that it depends on.
        slots: Where they run.
        train: Path of train.py.
        logs: Folder for the output of each run.
        progress: Prints what happens.
        retry: Start each failed run a second time, after all others.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        slots: Sequence[Slot],
        train: str,
        logs: Path,
        progress: Progress,
        retry: bool = False,
    ):
        self.waiting = deque(runs)
        self.unfinished = {run.folder for run in runs}
        self.free = list(reversed(slots))
        self.train, self.logs, self.progress, self.retry = train, logs, progress, retry
        self.running: list[_Started] = []
        self.retried: set[str] = set()
        self.failures: dict[str, Failure] = {}

    def execute(self) -> list[Failure]:
        """Run everything; return the failures.

        Raises:
            KeyboardInterrupt: A signal asked to stop; all processes have ended.
        """
        with Signals() as signals:
            try:
                while (self.waiting or self.running) and not signals.stops:
                    self._start_what_can()
                    self.progress.show(len(self.running))
                    signals.wait(1.0, *(s.process.sentinel for s in self.running))
                    for started in [s for s in self.running if s.process.exitcode is not None]:
                        self._collect(started)
            finally:
                self._end_all(signals)
            if signals.stops:
                raise KeyboardInterrupt
        return list(self.failures.values())

    def _start_what_can(self) -> None:
        for run in list(self.waiting):
            if run.after in self.failures:
                self.waiting.remove(run)
                self.failures[run.folder] = Failure(run, None, None, (f"not started: {run.after} failed",))
                self.progress.failed(run, "not started, the run that it needs failed")
            elif self.free and run.after not in self.unfinished:
                self.waiting.remove(run)
                self._start(run, self.free.pop())

    def _start(self, run: Run, slot: Slot) -> None:
        log = self.logs / f"{run.folder.strip('/')}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **slot.environment()}
        started = process.start(self.train, run.argv, environment, log)
        self.running.append(_Started(run, slot, log, started, time.monotonic()))

    def _collect(self, started: _Started) -> None:
        self.running.remove(started)
        self.free.append(started.slot)
        run, code = started.run, started.process.exitcode
        try:
            done = run.finished() if code == 0 else None
            reason = "no metrics.json was written"
        except UserError as error:
            done, reason = None, str(error)
        if done is not None:
            self.unfinished.discard(run.folder)
            self.progress.done(run, done, time.monotonic() - started.since)
            return
        tail = _tail(started.log)
        if code == 0:
            tail = (*tail, reason)
        if self.retry and code != _USER_ERROR and run.folder not in self.retried:
            self.retried.add(run.folder)
            self.waiting.append(run)
            self.progress.note(f"will be tried again: {run.label} ({describe(code)})")
            return
        self.failures[run.folder] = Failure(run, code, started.log, tail)
        self.progress.failed(run, describe(code))

    def _end_all(self, signals: Signals) -> None:
        """End every process group: SIGTERM, then SIGKILL after a grace period, or at once on a second interrupt."""
        for started in self.running:
            process.signal_group(started.process, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while signals.stops < 2 and time.monotonic() < deadline:
            alive = [s.process.sentinel for s in self.running if s.process.exitcode is None]
            if not alive:
                break
            signals.wait(0.5, *alive)
        # Data loader workers may outlive their parent: kill the whole group even if its leader has ended.
        for started in self.running:
            process.signal_group(started.process, getattr(signal, "SIGKILL", signal.SIGTERM))
            started.process.join()


def _tail(log: Path) -> tuple[str, ...]:
    """The last lines of a log that are not blank; none if the run ended before it opened the log."""
    if not log.is_file():
        return ()
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return tuple([line for line in lines if line.strip()][-_TAIL_LINES:])


def describe(code: int | None) -> str:
    """Return an exit code in words."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    return f"exit code {code}"
