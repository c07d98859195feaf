"""The one error that is meant for the user, and how a command ends on it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: shown as one line, exit code 2, no traceback.

    The message says what was got, what was expected, and what to type instead.
    """


class AlreadyFinished(UserError):
    """What was asked for has been done before, with these very settings: nothing is left to do."""


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest of `known`, or an empty string when none is close."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(got.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""
