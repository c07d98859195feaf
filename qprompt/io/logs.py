"""Shows what the package logs where a program prints: on standard output."""

import logging
import sys
from typing import TextIO

LOGGER = "qprompt"  # the parent of every logger of the package, of datasets/ and of trainers/


def show_logs() -> None:
    """Print the log messages of level INFO and above as plain lines; calling it again changes nothing.

    For programs (train.py, ``qprompt``, the launcher). A library user configures `logging` instead.
    """
    logger = logging.getLogger(LOGGER)
    if any(isinstance(handler, _StdoutHandler) for handler in logger.handlers):
        return
    handler = _StdoutHandler()
    handler.setFormatter(_Formatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a handler of the root logger would show each message twice


class _StdoutHandler(logging.StreamHandler):
    """Writes to the current `sys.stdout`, which Dassl replaces to fill log.txt."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # StreamHandler's would fix the stream

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno < logging.WARNING else f"{record.levelname.capitalize()}: {message}"
