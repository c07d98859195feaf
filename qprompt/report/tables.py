"""A table as data, its best entries, and the text of an entry."""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stat:
    """The mean of n values with their sample standard deviation (n - 1 in the denominator; None for one value)."""

    mean: float
    std: float | None = None
    n: int = 1

    @classmethod
    def of(cls, values: Iterable[float]) -> "Stat | None":
        """Return mean and standard deviation of `values`, or None if there are none."""
        values = list(values)
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its head.
        kind: Of its entries: text, percent (`Stat`), points (signed `Stat`), interval, bytes, time, count or p.
        better: "high" if the highest entry is the best; empty if entries are not compared.
    """

    name: str
    kind: str = "text"
    better: str = ""


@dataclass
class Table:
    """A table.

    Attributes:
        title: Its title.
        columns: Its columns.
        rows: Each with one entry per column; None for an unknown entry.
        notes: Shown below.
        group_by: Rows with the same first `group_by` entries are a group, in which entries are compared.
    """

    title: str
    columns: list[Column]
    rows: list[list[Any]]
    notes: list[str] = field(default_factory=list)
    group_by: int = 0

    def grouped(self) -> Iterator[tuple[list[Any], bool]]:
        """Yield each row, and whether it is the first of its group."""
        before = None
        for row in self.rows:
            group = row[: self.group_by]
            yield row, group != before
            before = group

    def marks(self) -> dict[tuple[int, int], str]:
        """Return (row, column) -> "best" or "second", judged at the two decimals that are shown.

        Equal values have the same mark. A group of one row has no best, a group of two no second.
        """
        found: dict[tuple[int, int], str] = {}
        groups: dict[tuple, list[int]] = {}
        for index, row in enumerate(self.rows):
            groups.setdefault(tuple(row[: self.group_by]), []).append(index)
        for number, column in enumerate(self.columns):
            if column.better != "high":
                continue
            for members in groups.values():
                values = {i: round(self.rows[i][number].mean, 2) for i in members if self.rows[i][number] is not None}
                ranks = sorted(set(values.values()), reverse=True)
                if len(values) < 2 or len(ranks) < 2:
                    continue
                for index, value in values.items():
                    if value == ranks[0]:
                        found[index, number] = "best"
                    elif value == ranks[1] and len(values) > 2:
                        found[index, number] = "second"
        return found


def format_bytes(count: int) -> str:
    """Return the exact number: ``1,774,656 B``."""
    return f"{count:,} B"


def format_time(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours, with one decimal."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def format_p(p: float) -> str:
    """Return ``0.013``, or ``<0.001`` for smaller values."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def entry_text(value: Any, kind: str, plus_minus: str = "+-", missing: str = "-") -> str:
    """Return an entry as text, for every format except CSV.

    Args:
        value: The entry.
        kind: Of its column.
        plus_minus: Between mean and standard deviation.
        missing: For None.
    """
    if value is None:
        return missing
    if isinstance(value, str):
        return value
    if kind in ("percent", "points"):
        shown = f"{value.mean:+.2f}" if kind == "points" else f"{value.mean:.2f}"
        return shown if value.std is None else f"{shown} {plus_minus} {value.std:.2f}"
    if kind == "interval":
        return f"{value[0]:+.2f} to {value[1]:+.2f}"
    formats = {"bytes": format_bytes, "time": format_time, "p": format_p}
    return formats.get(kind, str)(value)
