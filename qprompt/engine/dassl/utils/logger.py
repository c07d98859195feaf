"""Standard output that is written to log.txt as well."""

import os
import sys
import time
from typing import TextIO

__all__ = ["Logger", "setup_logger"]


class Logger:
    """A text stream that copies what is written to the console into the file `fpath`."""

    console: TextIO

    def __init__(self, fpath=None):
        self.file = None
        # A second run in the same process gets its own file; its lines are not for the first run's.
        self.console = sys.stdout.console if isinstance(sys.stdout, Logger) else sys.stdout
        if fpath is not None:
            os.makedirs(os.path.dirname(fpath) or ".", exist_ok=True)
            # line by line, so that the log of a killed run ends where the run ended
            self.file = open(fpath, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def __del__(self):
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __getattr__(self, name):
        # isatty, encoding, fileno, ...: as the console has them
        if name in ("console", "file"):
            raise AttributeError(name)
        return getattr(self.console, name)

    def write(self, msg):
        """Write `msg` to both."""
        if self.file is not None:
            self.file.write(msg)
        return self.console.write(msg)

    def flush(self):
        """Flush both."""
        self.console.flush()
        if self.file is not None:
            self.file.flush()

    def close(self):
        """Close the file; the console stays open, it is not ours."""
        if self.file is not None:
            self.file.close()
            self.file = None


def setup_logger(output=None):
    """From now on copy standard output to `output` (a .txt or .log file, or a folder that gets a log.txt).

    An existing log is kept: the new one then has the time in its name.
    """
    if output is None:
        return
    fpath = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    if os.path.exists(fpath):
        fpath += time.strftime("-%Y-%m-%d-%H-%M-%S")
    sys.stdout = Logger(fpath)
