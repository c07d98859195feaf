"""The report as one self-contained HTML file: tables that sort on a click, and the figures."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from qprompt.report.accuracy import unique
from qprompt.report.methods import name_methods
from qprompt.report.records import Run
from qprompt.report.tables import Column, Stat, Table, entry_text


def page(
    tables: Sequence[Table],
    figures: Mapping[str, tuple[str, bytes]],
    published: Sequence[Table],
    runs: Sequence[Run],
    warnings: Sequence[str],
    conclusions: Sequence[str] = (),
) -> str:
    """Return the page as HTML.

    Args:
        tables: The measured tables.
        figures: Name -> (caption, SVG or PNG file).
        published: The tables of the paper, which stand after the figures.
        runs: The runs of the report; the page ends with a table of them.
        warnings: Shown on top.
        conclusions: Shown below the warnings, above the tables.
    """
    environment = Environment(
        loader=PackageLoader("qprompt.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["rows"] = _rows
    pictures = [{"caption": caption, "url": _data_url(picture)} for caption, picture in figures.values()]
    return environment.get_template("page.html").render(
        tables=tables,
        pictures=pictures,
        published=published,
        runs=runs_table(runs),
        warnings=warnings,
        conclusions=conclusions,
        facts=_facts(runs),
    )


class _Cell(NamedTuple):
    kind: str
    mark: str  # best, second or empty
    sort_key: str  # empty sorts last
    main: str
    spread: str


class _Row(NamedTuple):
    starts_group: bool
    cells: list[_Cell]


def _rows(table: Table) -> Iterator[_Row]:
    marks = table.marks()
    for number, (row, starts_group) in enumerate(table.grouped()):
        cells = []
        for i, (value, column) in enumerate(zip(row, table.columns, strict=True)):
            main, _, spread = entry_text(value, column.kind, "±", "–").partition(" ± ")
            cells.append(_Cell(column.kind, marks.get((number, i), ""), _sort_key(value), main, spread))
        yield _Row(starts_group and number > 0, cells)


def _sort_key(value: Any) -> str:
    if isinstance(value, Stat):
        return repr(value.mean)
    if isinstance(value, tuple):
        return repr(value[0])
    return "" if value is None else str(value)


def runs_table(runs: Sequence[Run]) -> Table:
    """Return a table with one row per run and its folder."""
    columns = [
        *map(Column, ("Method", "Data set", "Mode", "Classes")),
        *(Column(name, "count") for name in ("Draw", "Shots", "Seed")),
        Column("Accuracy", "percent"),
        Column("Time", "time"),
        Column("Finished"),
        Column("Folder"),
    ]
    rows = [
        [name, run.dataset, run.mode, run.classes, run.draw, run.shots, run.seed]
        + [Stat(run.accuracy), run.time_s, run.finished, str(run.folder)]
        for run, name in zip(runs, name_methods(runs), strict=True)
    ]
    return Table("Runs", columns, rows)


def _data_url(picture: bytes) -> str:
    kind = "image/png" if picture.startswith(b"\x89PNG") else "image/svg+xml"
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def _facts(runs: Sequence[Run]) -> str:
    """Number of runs, backbone, versions, hardware and dates."""
    facts = [f"{len(runs)} run{'s' * (len(runs) != 1)}", f"backbone {', '.join(unique(run.backbone for run in runs))}"]
    for name in ("qprompt", "torch", "engine"):
        if found := unique(str(run.versions[name]) for run in runs if name in run.versions):
            facts.append(f"{name} {', '.join(each.removeprefix('engine: ') for each in found)}")
    if found := unique(str(run.hardware.get("gpu") or run.hardware["cpu"]) for run in runs if "cpu" in run.hardware):
        facts.append(f"on {', '.join(found)}")
    times = sorted(run.finished for run in runs if run.finished)
    if times:
        facts.append(f"finished {times[0][:10]}" + (f" to {times[-1][:10]}" if times[-1][:10] != times[0][:10] else ""))
    return "; ".join(facts) + "."
