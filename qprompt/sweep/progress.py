"""The output of a sweep: a line for each run that ends, and on a terminal a status line that is updated."""

import shutil
import sys
import time
from pathlib import Path
from typing import TextIO

from qprompt.io.durations import clock
from qprompt.runs.metrics import Metrics
from qprompt.sweep.plan import Run


class Progress:
    """Counts and times runs, and prints a line for each that ends.

    Args:
        runs: The runs that have not finished.
        slots: Number of runs in parallel.
        log: File to which every printed line is appended, with date and time.
        stream: Where lines are printed (default: standard output).
    """

    def __init__(self, runs: list[Run], slots: int, log: Path, stream: TextIO | None = None):
        self.left = list(runs)
        self.total, self.slots, self.log = len(runs), slots, log
        self.stream = stream or sys.stdout
        self.on_terminal = self.stream.isatty()
        self.started = time.monotonic()
        self.seconds: dict[tuple[str, bool], list[float]] = {}
        self.failures = 0
        self._status = ""

    def note(self, text: str) -> None:
        """Print a line."""
        self._clear()
        print(text, file=self.stream, flush=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def learn(self, run: Run, metrics: Metrics) -> None:
        """Include the time of a finished run in the estimate of the time left."""
        if metrics.time_s is not None:
            self.seconds.setdefault(run.group, []).append(metrics.time_s)

    def done(self, run: Run, metrics: Metrics, seconds: float) -> None:
        """Print that a run has finished."""
        self.seconds.setdefault(run.group, []).append(seconds)
        shown = "done" if metrics.accuracy is None else f"{metrics.accuracy:.1f}%"
        self._ended(run, f"{run.label}  {shown}  ({clock(seconds)})")

    def failed(self, run: Run, how: str) -> None:
        """Print that a run has failed."""
        self.failures += 1
        self._ended(run, f"{run.label}  FAILED: {how}")

    def show(self, running: int) -> None:
        """Update the status line if the output is a terminal."""
        if not self.on_terminal:
            return
        parts = [f"{self.total - len(self.left)}/{self.total} runs", f"{running} running"]
        parts += [f"{self.failures} failed"] if self.failures else []
        parts += [clock(time.monotonic() - self.started)]
        left = self.seconds_left()
        parts += [f"about {clock(left)} left"] if left is not None else []
        width = shutil.get_terminal_size().columns - 1
        status = ", ".join(parts)[:width]
        if status != self._status:
            self._clear()
            print(status, end="", file=self.stream, flush=True)
            self._status = status

    def close(self) -> None:
        """Remove the status line."""
        self._clear()

    def seconds_left(self) -> float | None:
        """Estimate the time left from the mean time of each kind of run; None before the first run has ended.

        A kind of run that has not been seen yet counts with the mean of all runs.
        """
        everything = [s for seconds in self.seconds.values() for s in seconds]
        if not everything:
            return None
        total = 0.0
        for run in self.left:
            seen = self.seconds.get(run.group, everything)
            total += sum(seen) / len(seen)
        return total / min(self.slots, max(1, len(self.left)))

    def _ended(self, run: Run, text: str) -> None:
        self.left.remove(run)
        count = str(self.total - len(self.left)).rjust(len(str(self.total)))
        left = self.seconds_left() if self.left and not self.on_terminal else None
        self.note(f"[{count}/{self.total}] {text}" + (f"  about {clock(left)} left" if left is not None else ""))

    def _clear(self) -> None:
        if self._status:
            print("\r\033[K", end="", file=self.stream, flush=True)
            self._status = ""
