"""Signals as data: what came, and a wait that ends when one comes.

Nothing is raised in the middle of starting a process, so none is ever started and then forgotten.
"""

import os
import signal
from multiprocessing import connection
from types import FrameType, TracebackType


class Signals:
    """Within the ``with`` block SIGINT, SIGTERM and SIGHUP only count in ``stops``.

    SIGHUP that is ignored (nohup) stays ignored. SIGINT counts even so: a shell without job control starts `cmd &` with
    it ignored, and a sweep that it cannot end would have no other polite end. Main thread only.
    """

    def __init__(self) -> None:
        self.stops = 0

    def __enter__(self) -> "Signals":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._old_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        stopping = [signal.SIGINT, signal.SIGTERM]
        stopping += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
        self._old = {number: signal.signal(number, self._stop) for number in stopping}
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, timeout: float, *sentinels: int) -> None:
        """Return after `timeout` seconds, or as soon as a signal comes (or came since the last wait) or a process ends
        whose sentinel is given."""
        if self._reader in connection.wait([self._reader, *sentinels], timeout):
            os.read(self._reader, 4096)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stops += 1
