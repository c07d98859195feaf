"""Predictions as text, CSV or JSON, one image after the other."""

import csv
import io
import json
import sys
import textwrap
from typing import Any, TypeAlias

from qprompt.io.logs import prints_utf8

Ranking: TypeAlias = tuple[tuple[str, float], ...]


class Text:
    """Indented lines below each image.

    Args:
        top: The number of classes of each image.

    Attributes:
        head: Printed first.
    """

    head = ""

    def __init__(self, top: int):
        self.top = top

    def result(self, path: str, ranking: Ranking) -> str:
        """Return what to print for an image."""
        return "\n".join([path, *(f"  {probability:8.2%}  {name}" for name, probability in ranking), ""])

    def tail(self) -> str:
        """Return what to print last."""
        return ""


class JsonLines(Text):
    """A JSON object per line."""

    def result(self, path: str, ranking: Ranking) -> str:
        return json.dumps(self.entry(path, ranking), ensure_ascii=self.escaped(path)) + "\n"

    def entry(self, path: str, ranking: Ranking) -> dict[str, Any]:
        return {"image": path, "classes": [{"name": name, "probability": round(p, 6)} for name, p in ranking]}

    def escaped(self, path: str) -> bool:
        """Whether to write only ASCII: where the output, or a file name that is not text, has no other way."""
        return not prints_utf8(sys.stdout) or any("\ud800" <= char <= "\udfff" for char in path)


class Json(JsonLines):
    """One list of the objects."""

    head = "["

    def __init__(self, top: int):
        super().__init__(top)
        self.before = "\n"

    def result(self, path: str, ranking: Ranking) -> str:
        text = json.dumps(self.entry(path, ranking), indent=2, ensure_ascii=self.escaped(path))
        before, self.before = self.before, ",\n"
        return before + textwrap.indent(text, "  ")

    def tail(self) -> str:
        return "\n]\n" if self.before == ",\n" else "]\n"


class Csv(Text):
    """A line per image."""

    def __init__(self, top: int):
        super().__init__(top)
        self.head = self._line("image", *(f"{key}_{k}" for k in range(1, top + 1) for key in ("label", "probability")))

    def result(self, path: str, ranking: Ranking) -> str:
        return self._line(path, *(cell for name, probability in ranking for cell in (name, f"{probability:.6f}")))

    def _line(self, *cells: str) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        return line.getvalue()


FORMATS: dict[str, type[Text]] = {"text": Text, "csv": Csv, "jsonl": JsonLines, "json": Json}
