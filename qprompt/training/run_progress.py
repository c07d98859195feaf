"""How far a run is, and the time left, for `qprompt train` and `qprompt.fit`."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, TextIO

from tqdm import tqdm

from qprompt.io.durations import clock

_QUIET_S = 30.0  # between lines where the output is not a terminal


class RunProgress:
    """Shows training and testing of trainers on a stream: a bar on a terminal, otherwise a line every half minute.

    Args:
        stream: usually standard error; None shows nothing.
    """

    def __init__(self, stream: TextIO | None):
        self.stream = stream

    def watch(self, trainer: Any, name: str) -> None:
        """Count the steps and tests of a Dassl trainer from now on, under a name."""
        if self.stream is None:
            return
        step, process, test = trainer.forward_backward, trainer.evaluator.process, trainer.test
        bars: dict[str, _Bar] = {}

        def counted_step(batch: Any) -> Any:
            if "train" not in bars:
                per_epoch = len(trainer.train_loader_x)
                bars["train"] = _Bar(
                    f"{name}: training", trainer.max_epoch * per_epoch, self.stream, trainer.epoch * per_epoch
                )
            result = step(batch)
            bars["train"].add(1)
            return result

        def counted_process(output: Any, label: Any) -> Any:
            if "test" in bars:
                bars["test"].add(len(label))
            return process(output, label)

        def shown_test(*args: Any, **kwargs: Any) -> Any:
            with contextlib.ExitStack() as closed:
                if "train" in bars:
                    bars["train"].close()
                bars["test"] = closed.enter_context(
                    _open(f"{name}: testing", len(trainer.dm.dataset.test or ()), self.stream)
                )
                return test(*args, **kwargs)

        trainer.forward_backward, trainer.evaluator.process, trainer.test = counted_step, counted_process, shown_test


class _Bar:
    def __init__(self, name: str, total: int, stream: TextIO | None, done: int = 0):
        self.name, self.total, self.stream, self.first = name, total, stream, done
        self.done, self.started = done, time.monotonic()
        self.shown = self.started
        on_terminal = stream is not None and stream.isatty()
        self.bar = tqdm(total=total, initial=done, desc=name, file=stream, leave=False) if on_terminal else None

    def add(self, n: int) -> None:
        self.done += n
        if self.bar is not None:
            self.bar.update(n)
        elif time.monotonic() - self.shown > _QUIET_S:
            self.shown = time.monotonic()
            left = (self.shown - self.started) / (self.done - self.first) * max(0, self.total - self.done)
            print(f"{self.name}: {self.done} of {self.total}, {clock(left)} left", file=self.stream, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


@contextlib.contextmanager
def _open(name: str, total: int, stream: TextIO | None) -> Iterator[_Bar]:
    bar = _Bar(name, total, stream)
    try:
        yield bar
    finally:
        bar.close()
