"""Durations as text."""


def clock(seconds: float) -> str:
    """Return a duration as ``42 s``, ``3:07`` (minutes) or ``2:03:07`` (hours)."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
