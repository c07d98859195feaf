"""How a launched script ends: no error of ours is lost in it, and a run without a prompt file says so.

Scripts catch all exceptions and go on, or end the process with ``os._exit`` in their test.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from qprompt.errors import UserError

_raised: list[UserError] = []


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `function`: remember a UserError that it raises, in case that a caller catches it."""

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except UserError as error:
            if error not in _raised:
                _raised.append(error)
            raise

    return wrapper


def swallowed() -> UserError | None:
    """Return the last error that was remembered, and forget it."""
    error = _raised[-1] if _raised else None
    _raised.clear()
    return error


def missing_prompts() -> list[str]:
    """Return a line for each quantized trainer that trained and has not stored what it trained."""
    third_party = sys.modules.get("qprompt.training.third_party")
    lines = []
    for run in third_party.runs if third_party is not None else ():
        if run.trained and not run.stored:
            what = "its prompt file is of an earlier step" if run.written else "no prompt file was written"
            lines.append(f"{run.trainer} trained, but {what}: after the last step, call trainer.write_prompt()")
    return lines


def flush() -> None:
    """Write what the streams of the process still hold; a script may have closed them."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):
            stream.flush()


@contextlib.contextmanager
def reported_before_exit(check: Callable[[], None]) -> Iterator[None]:
    """Within the context, ``os._exit`` prints what would be lost with the process, and the error of `check`."""
    end, process = os._exit, os.getpid()

    def _exit(status: int) -> NoReturn:
        if os.getpid() != process:  # a worker of a data loader
            end(status)
        with contextlib.suppress(UserError):
            remembered(check)()
        for line in missing_prompts():
            print(f"qprompt: {line}", file=sys.stderr)
        error = swallowed()
        if error is not None:
            print(f"qprompt: {error}", file=sys.stderr)
            status = 2
        flush()
        end(status)

    os._exit = _exit
    try:
        yield
    finally:
        os._exit = end
