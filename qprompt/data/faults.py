"""Everything that is wrong with a data set, found in one run, each with what mends it."""

from typing import NamedTuple

from qprompt.data.items import Item
from qprompt.errors import UserError


class Fault(NamedTuple):
    """What is wrong, and a command, a setting or a change that mends it."""

    message: str
    advice: str


class DataFaults(UserError):
    """All faults of a data set.

    Args:
        faults: What is wrong.
        items: The items of each part that could be read nevertheless.
        command: The command that shows all of them.
    """

    def __init__(self, faults: list[Fault], items: dict[str, list[Item]], command: str):
        self.faults, self.items = faults, items
        more = f" There are {len(faults) - 1} more faults: {command}" if faults[1:] else ""
        super().__init__(f"{faults[0].message} {faults[0].advice}{more}")


class RowFaults:
    """Faults in the rows of a file: one of each kind, with the numbers of its rows."""

    SHOWN = 5

    def __init__(self, file: str):
        self.file = file
        self.first: dict[str, Fault] = {}
        self.rows: dict[str, list[int]] = {}

    def add(self, kind: str, row: int, message: str, advice: str) -> None:
        """Add a fault of one row (from 1); messages of the same kind are told once, for the first row."""
        self.first.setdefault(kind, Fault(message, advice))
        self.rows.setdefault(kind, []).append(row)

    def faults(self) -> list[Fault]:
        """Return one fault per kind."""
        return [
            Fault(
                f"{self.file}, row {self.rows[kind][0]}{fault.message}{self._others(self.rows[kind][1:])}", fault.advice
            )
            for kind, fault in self.first.items()
        ]

    def _others(self, rows: list[int]) -> str:
        if not rows:
            return ""
        shown = ", ".join(map(str, rows[: self.SHOWN])) + ", ..." * (len(rows) > self.SHOWN)
        return f" The same is wrong in {len(rows):,} more row{'s' * (len(rows) > 1)} ({shown})."
