"""Standard output that is also written to log.txt."""

import os
import sys
import time
from typing import TextIO

from .tools import mkdir_if_missing  # noqa: F401 (Dassl has the name here)

__all__ = ["Logger", "setup_logger"]


class Logger:
    """A text stream to the console that also writes to the file `fpath`."""

    console: TextIO

    def __init__(self, fpath=None):
        self.file = None
        # The lines of a second run in the same process do not belong in the file of the first.
        self.console = sys.stdout.console if isinstance(sys.stdout, Logger) else sys.stdout
        if fpath is not None:
            os.makedirs(os.path.dirname(fpath) or ".", exist_ok=True)
            # line by line, so that the log of a killed run is complete
            self.file = open(fpath, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def __del__(self):
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __getattr__(self, name):
        # isatty, encoding, fileno, ... are those of the console
        if name in ("console", "file"):
            raise AttributeError(name)
        return getattr(self.console, name)

    def write(self, msg):
        """Write `msg` to the console and the file."""
        if self.file is not None:
            self.file.write(msg)
        return self.console.write(msg)

    def flush(self):
        """Flush the console and the file."""
        self.console.flush()
        if self.file is not None:
            self.file.flush()

    def close(self):
        """Close the file; the console stays open."""
        if self.file is not None:
            self.file.close()
            self.file = None


def setup_logger(output=None):
    """Write standard output to a file too, from now on.

    Args:
        output: a .txt or .log file, or a folder for log.txt; None does nothing. If the file exists it is kept, and the
            name of the new one ends with the time.
    """
    if output is None:
        return
    fpath = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    if os.path.exists(fpath):
        fpath += time.strftime("-%Y-%m-%d-%H-%M-%S")
    sys.stdout = Logger(fpath)
