"""Run a plan on this machine: side by side, what depends on a run after it, failures collected.

Every run is a process group of its own, so that Ctrl-C reaches the sweep alone, which then ends them all.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from qprompt.errors import UserError
from qprompt.sweep.plan import Run
from qprompt.sweep.progress import Progress
from qprompt.sweep.record import finished
from qprompt.sweep.signals import Signals
from qprompt.sweep.slots import Slot

_GRACE_S = 10.0  # from SIGTERM to SIGKILL
_TAIL_LINES = 5
_USER_ERROR = 2  # train.py's exit code for a mistake: trying again would end the same


@dataclasses.dataclass
class _Process:
    run: Run
    slot: Slot
    log: Path
    popen: "subprocess.Popen[bytes]"
    started: float


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that failed, and how: exit code (negative: a signal) and the last lines of its log."""

    run: Run
    code: int | None
    log: Path | None
    tail: tuple[str, ...]


class Pool:
    """Runs `runs` over `slots`; ``execute()`` returns the failures."""

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
        self.running: list[_Process] = []
        self.retried: set[str] = set()
        self.failures: dict[str, Failure] = {}

    def execute(self) -> list[Failure]:
        """Until every run has ended. KeyboardInterrupt when a signal asked to stop, after all processes are gone."""
        with Signals() as signals:
            try:
                while (self.waiting or self.running) and not signals.stops:
                    self._start_what_can()
                    self.progress.show(len(self.running))
                    signals.wait(timeout=1.0)
                    for process in [p for p in self.running if p.popen.poll() is not None]:
                        self._collect(process)
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
                self.progress.failed(run, "not started, the run before it failed")
            elif self.free and run.after not in self.unfinished:
                self.waiting.remove(run)
                self._start(run, self.free.pop())

    def _start(self, run: Run, slot: Slot) -> None:
        log = self.logs / f"{run.folder.strip('/')}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **slot.environment()}
        with open(log, "ab") as output:
            popen = subprocess.Popen(
                [sys.executable, self.train, *run.argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self.running.append(_Process(run, slot, log, popen, time.monotonic()))

    def _collect(self, process: _Process) -> None:
        self.running.remove(process)
        self.free.append(process.slot)
        run, code = process.run, process.popen.returncode
        try:
            done = finished(run) if code == 0 else None
            reason = "no metrics.json was written"
        except UserError as error:
            done, reason = None, str(error)
        if done is not None:
            self.unfinished.discard(run.folder)
            self.progress.done(run, done, time.monotonic() - process.started)
            return
        tail = _tail(process.log)
        if code == 0:
            tail = (*tail, reason)
        if self.retry and code != _USER_ERROR and run.folder not in self.retried:
            self.retried.add(run.folder)
            self.waiting.append(run)
            self.progress.note(f"again later: {run.label} ({describe(code)})")
            return
        self.failures[run.folder] = Failure(run, code, process.log, tail)
        self.progress.failed(run, describe(code))

    def _end_all(self, signals: Signals) -> None:
        """End every process group: SIGTERM, then SIGKILL after a while, or at once on a second interrupt."""
        for process in self.running:
            _signal_group(process.popen, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while any(p.popen.poll() is None for p in self.running) and signals.stops < 2:
            if time.monotonic() > deadline:
                break
            signals.wait(timeout=0.5)
        # Data loader workers may outlive their parent: the whole group goes, whether or not its leader has.
        for process in self.running:
            _signal_group(process.popen, signal.SIGKILL)
            process.popen.wait()


def _signal_group(popen: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, number)


def _tail(log: Path) -> tuple[str, ...]:
    """The last lines of a log that say something."""
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return tuple([line for line in lines if line.strip()][-_TAIL_LINES:])


def describe(code: int | None) -> str:
    """An exit code in words."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    return f"exit code {code}"
