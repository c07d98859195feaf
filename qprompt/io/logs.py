"""Shows the log messages of the package in programs."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import TextIO

LOGGER = "qprompt"  # the parent of every logger of the package, of datasets/ and of trainers/


def show_logs(stream: str = "stdout") -> None:
    """Print the log messages of level INFO and above as plain lines.

    For programs (train.py, ``qprompt``, the launcher). A library user configures `logging` instead.

    Args:
        stream: "stdout", or "stderr" for a command with a result on standard output. The last call decides.
    """
    logging.disable(logging.NOTSET)  # real Dassl's data sets of WILDS turn off the warnings of the whole process
    logger = logging.getLogger(LOGGER)
    for handler in logger.handlers:
        if isinstance(handler, _Handler):
            handler.stream_name = stream
            return
    new = _Handler(stream)
    new.setFormatter(_Formatter())
    logger.addHandler(new)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a handler of the root logger would show each message twice


def accept_any_name() -> None:
    """Let names that are not text of the terminal's encoding be printed: as their bytes, or escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if prints_utf8(stream) else "backslashreplace")


def prints_utf8(stream: TextIO) -> bool:
    """Return whether a stream takes every character."""
    return (stream.encoding or "").lower().replace("-", "") == "utf8"


def discard_output() -> None:
    """Send to nowhere what is still buffered for a closed pipe: Python would report an error at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def logs_shown(stream: str) -> Iterator[None]:
    """Show logs as `show_logs` does, and restore the logger afterwards: for a library call that writes a log file."""
    logger = logging.getLogger(LOGGER)
    before = list(logger.handlers), logger.level, logger.propagate
    show_logs(stream)
    try:
        yield
    finally:
        logger.handlers[:], level, logger.propagate = before
        logger.setLevel(level)


class _Handler(logging.StreamHandler):
    """Writes to the current `sys.stdout` (which Dassl replaces to fill log.txt) or `sys.stderr`."""

    def __init__(self, stream_name: str) -> None:
        logging.Handler.__init__(self)  # StreamHandler's would fix the stream
        self.stream_name = stream_name

    @property
    def stream(self) -> TextIO:
        return getattr(sys, self.stream_name)

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream is not None:  # closed, as with >&-
            super().emit(record)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno < logging.WARNING else f"{record.levelname.capitalize()}: {message}"
