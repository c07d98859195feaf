"""The report as one HTML file that needs nothing else: tables that sort on a click, figures inside."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from qprompt.report.accuracy import unique
from qprompt.report.methods import name_methods
from qprompt.report.records import Run
from qprompt.report.tables import Column, Stat, Table, entry_text

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th.text, td.text { text-align: left; }
thead th { border-top: 2px solid; border-bottom: 1px solid; padding: 0; }
tbody tr:last-child td { border-bottom: 2px solid; }
tr.group td { border-top: 1px solid #aaa; } tbody tr:hover { background: #f2f6fa; }
th button { font: inherit; font-weight: 600; background: none; border: 0; padding: .25rem .7rem; cursor: pointer;
  width: 100%; text-align: inherit; color: inherit; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.best { font-weight: 700; } .second { text-decoration: underline; }
.sd { color: #555; font-weight: 400; font-size: .85em; }
p.note, figcaption, .facts { color: #444; font-size: .9rem; max-width: 60rem; }
.warning { border-left: 4px solid #d55e00; padding: .1rem .8rem; background: #fdf3ec; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; }
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
      return up ? order : -order;
    });
    rows.forEach(row => row.classList.remove("group"));
    body.append(...rows);
  }));
}
"""


def page(
    tables: Sequence[Table],
    figures: Mapping[str, tuple[str, bytes]],
    published: Sequence[Table],
    runs: Sequence[Run],
    warnings: Sequence[str],
) -> str:
    """The whole page: measured tables, figures (name -> (caption, SVG or PNG file)), published tables, all runs."""
    pictures = [
        f'<figure><img alt="{escape(caption)}" src="{_data_url(picture)}">'
        f"<figcaption>{escape(caption)}.</figcaption></figure>"
        for caption, picture in figures.values()
    ]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>QPrompt report</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>QPrompt report</h1>",
        f'<p class="facts">{_facts(runs)}</p>',
        *(f'<p class="warning">{escape(warning)}</p>' for warning in warnings),
        *map(_table, tables),
        "<h2>Figures</h2>" if pictures else "",
        *pictures,
        *map(_table, published),
        f"<details><summary>All runs</summary>{_table(runs_table(runs))}</details>",
        f"<script>{_SCRIPT}</script></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def runs_table(runs: Sequence[Run]) -> Table:
    """One row a run, with the folder it lies in."""
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
    """What the figures were measured with."""
    facts = [f"{len(runs)} run{'s' * (len(runs) != 1)}", f"backbone {', '.join(unique(run.backbone for run in runs))}"]
    for name in ("qprompt", "torch", "engine"):
        if found := unique(str(run.versions[name]) for run in runs if name in run.versions):
            facts.append(f"{name} {', '.join(each.removeprefix('engine: ') for each in found)}")
    if found := unique(str(run.hardware.get("gpu") or run.hardware["cpu"]) for run in runs if "cpu" in run.hardware):
        facts.append(f"on {', '.join(found)}")
    times = sorted(run.finished for run in runs if run.finished)
    if times:
        facts.append(f"finished {times[0][:10]}" + (f" to {times[-1][:10]}" if times[-1][:10] != times[0][:10] else ""))
    return escape("; ".join(facts)) + "."


def _table(table: Table) -> str:
    marks = table.marks()
    kinds = ["text" if column.kind == "text" else "" for column in table.columns]
    heads = "".join(
        f'<th class="{kind}"><button>{escape(column.name)}</button></th>'
        for column, kind in zip(table.columns, kinds, strict=True)
    )
    rows, before = [], None
    for number, row in enumerate(table.rows):
        group = row[: table.group_by]
        cells = "".join(
            f'<td class="{kinds[i]} {marks.get((number, i), "")}" data-value="{_key(value)}">'
            f"{_shown(value, column.kind)}</td>"
            for i, (value, column) in enumerate(zip(row, table.columns, strict=True))
        )
        rows.append(f"<tr{' class=group' if before is not None and group != before else ''}>{cells}</tr>")
        before = group
    notes = "".join(f'<p class="note">{escape(note.replace("+-", "±"))}</p>' for note in table.notes)
    return (
        f'<h2>{escape(table.title)}</h2><div class="scroll"><table><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{chr(10).join(rows)}</tbody></table></div>{notes}"
    )


def _key(value: Any) -> str:
    """What a column is sorted by; empty sorts last."""
    if isinstance(value, Stat):
        return repr(value.mean)
    if isinstance(value, tuple):
        return repr(value[0])
    return "" if value is None else escape(str(value))


def _shown(value: Any, kind: str) -> str:
    main, _, spread = entry_text(value, kind, "±", "–").partition(" ± ")
    return escape(main) + (f' <span class="sd">± {escape(spread)}</span>' if spread else "")
