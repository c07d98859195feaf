"""Tables as terminal text, Markdown, LaTeX and CSV."""

import csv
import io
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from qprompt.report.tables import Stat, Table, entry_text

_BOLD, _UNDERLINE, _PLAIN = "\x1b[1m", "\x1b[4m", "\x1b[0m"


def text(tables: Sequence[Table], colour: bool = False) -> str:
    """Return tables for a terminal, in ASCII. With `colour` the best values are bold and the second underlined."""
    return "\n\n".join(_text(table, colour) for table in tables) + "\n"


def _text(table: Table, colour: bool) -> str:
    marks = table.marks() if colour else {}
    cells = [[entry_text(v, c.kind) for v, c in zip(row, table.columns, strict=True)] for row in table.rows]
    heads = [column.name for column in table.columns]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    left = [column.kind == "text" for column in table.columns]

    def line(entries: Sequence[str], row: int | None = None) -> str:
        shown = []
        for number, entry in enumerate(entries):
            space = " " * (widths[number] - len(entry))
            mark = marks.get((row, number)) if row is not None else None
            if mark:
                entry = f"{_BOLD if mark == 'best' else _UNDERLINE}{entry}{_PLAIN}"
            shown.append(entry + space if left[number] else space + entry)
        return "  ".join(shown).rstrip()

    ruler = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [table.title, ruler, line(heads), ruler]
    for number, (row, (_, starts_group)) in enumerate(zip(cells, table.grouped(), strict=True)):
        if starts_group and number:
            lines.append("")
        lines.append(line(row if starts_group else [""] * table.group_by + row[table.group_by :], number))
    notes = [textwrap.fill(note, max(len(ruler), 79)) for note in table.notes]
    return "\n".join([*lines, ruler, *notes])


def markdown(tables: Sequence[Table]) -> str:
    """Return tables in GitHub's Markdown, with the best values bold and the second underlined."""
    return "\n\n".join(map(_markdown, tables)) + "\n"


def _markdown(table: Table) -> str:
    marks = table.marks()
    wrap = {"best": "**{}**", "second": "<u>{}</u>", None: "{}"}

    def line(entries: Sequence[str]) -> str:
        return "| " + " | ".join(entry.replace("|", "\\|") for entry in entries) + " |"

    lines = [
        f"### {table.title}",
        "",
        line([column.name for column in table.columns]),
        line(["---" if column.kind == "text" else "---:" for column in table.columns]).replace(" ", ""),
    ]
    for number, row in enumerate(table.rows):
        entries = zip(row, table.columns, strict=True)
        lines.append(
            line([wrap[marks.get((number, i))].format(entry_text(v, c.kind, "±")) for i, (v, c) in enumerate(entries)])
        )
    return "\n".join([*lines, *("\n" + note.replace("+-", "±") for note in table.notes)])


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def latex_escape(plain: str) -> str:
    """Escape the characters of a text that have a meaning in LaTeX."""
    return re.sub(r"[\\~^<>&%$#_{}]", lambda found: _LATEX[found.group()], plain)


def latex(tables: Sequence[Table]) -> str:
    """Return one ``table`` environment per table, for booktabs, with the best values bold and the second underlined."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(map(_latex, tables))


def _latex(table: Table) -> str:
    marks = table.marks()
    align = "".join("l" if column.kind == "text" else "r" for column in table.columns)

    def entry(row: int, number: int) -> str:
        shown = latex_escape(entry_text(table.rows[row][number], table.columns[number].kind, "@pm@", "--"))
        value, _, spread = shown.partition(" @pm@ ")
        mark = marks.get((row, number))
        value = {"best": rf"\textbf{{{value}}}", "second": rf"\underline{{{value}}}"}.get(mark or "", value)
        return value + (rf" {{\scriptsize$\pm${spread}}}" if spread else "")

    caption = latex_escape(" ".join([f"{table.title}.", *table.notes])).replace("+-", r"$\pm$")
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{caption}}}",
        rf"  \begin{{tabular}}{{{align}}}",
        r"    \toprule",
        "    " + " & ".join(latex_escape(column.name) for column in table.columns) + r" \\",
        r"    \midrule",
    ]
    for number, (row, starts_group) in enumerate(table.grouped()):
        if starts_group and number:
            lines.append(r"    \midrule")
        entries = [entry(number, i) for i in range(len(row))]
        if not starts_group:
            entries[: table.group_by] = [""] * table.group_by
        lines.append(f"    {' & '.join(entries)} \\\\".replace("     &", "    &"))
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


_CSV_PARTS = {"percent": ("", "_std"), "points": ("", "_std"), "interval": ("_low", "_high")}


def _csv_entries(value: Any, parts: int) -> list[Any]:
    if isinstance(value, Stat):
        return [value.mean, value.std]
    return list(value) if isinstance(value, tuple) else [value, None][:parts]


def csv_text(tables: Sequence[Table]) -> str:
    """Return tables as CSV: the title in the first column, numbers in full precision, means and spreads in columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for index, table in enumerate(tables):
        if index:
            out.write("\n")
        heads = ["table"]
        for column in table.columns:
            name = column.name.lower().replace(" ", "_")
            endings = _CSV_PARTS.get(column.kind, ("",))
            heads += [name + ending for ending in endings]
        writer.writerow(heads)
        for row in table.rows:
            entries: list[object] = [table.title]
            for value, column in zip(row, table.columns, strict=True):
                entries += _csv_entries(value, len(_CSV_PARTS.get(column.kind, ("",))))
            writer.writerow(entries)
    return out.getvalue()


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "csv": csv_text,
}
