"""Shows the log messages of the package in programs."""

import logging
import sys
from typing import TextIO

LOGGER = "qprompt"  # the parent of every logger of the package, of datasets/ and of trainers/


def show_logs(stream: str = "stdout") -> None:
    """Print the log messages of level INFO and above as plain lines.

    For programs (train.py, ``qprompt``, the launcher). A library user configures `logging` instead.

    Args:
        stream: "stdout", or "stderr" for a command with a result on standard output. The last call decides.
    """
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


class _Handler(logging.StreamHandler):
    """Writes to the current `sys.stdout` (which Dassl replaces to fill log.txt) or `sys.stderr`."""

    def __init__(self, stream_name: str) -> None:
        logging.Handler.__init__(self)  # StreamHandler's would fix the stream
        self.stream_name = stream_name

    @property
    def stream(self) -> TextIO:
        return getattr(sys, self.stream_name)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno < logging.WARNING else f"{record.levelname.capitalize()}: {message}"
