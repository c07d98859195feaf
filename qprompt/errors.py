"""The one error that is meant for the user, and how a command ends on it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the user's input, shown as one line without a traceback; the exit code is 2.

    The message names the given value, the expected one, and the input that works.
    """


class AlreadyFinished(UserError):
    """The requested run exists and is finished, with the same settings."""


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the most similar name in `known`, or "" if none is similar."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(got.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""
