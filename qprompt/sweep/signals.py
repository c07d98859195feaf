"""Signals that are counted instead of raised, and a wait that ends when one arrives.

No exception can interrupt the start of a process, so no process is started and then lost.
"""

import signal
import socket
from multiprocessing import connection
from types import FrameType, TracebackType


class Signals:
    """In the ``with`` block SIGINT, SIGTERM and SIGHUP only increment ``stops``. For the main thread only.

    If SIGHUP was ignored (nohup), it stays ignored. SIGINT is counted even if it was ignored, because a shell without
    job control starts `cmd &` like that, and ``kill -INT`` should still end the sweep.
    """

    def __init__(self) -> None:
        self.stops = 0

    def __enter__(self) -> "Signals":
        self._reader, self._writer = socket.socketpair()  # not a pipe: Windows can wait for sockets only
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        stopping = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # not on Windows
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
            stopping.append(hangup)
        self._old = {number: signal.signal(number, self._stop) for number in stopping}
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._reader.close()
        self._writer.close()

    def wait(self, timeout: float, *sentinels: int) -> None:
        """Wait for a signal (also one since the last wait), for the end of a process, or for `timeout` seconds.

        Args:
            timeout: Seconds.
            *sentinels: Sentinels of the processes.
        """
        if self._reader in connection.wait([self._reader, *sentinels], timeout):
            self._reader.recv(4096)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stops += 1
