"""The paper's tables beside runs of its methods, with the interval of each measured average."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qprompt.report import render
from qprompt.report.accuracy import average_over_datasets, base_new_table, unique
from qprompt.report.claims import claims, claims_tables, decide, published_row
from qprompt.report.output import write_report
from qprompt.report.published import NOT_RUN, published
from qprompt.report.records import Run, read_runs
from qprompt.report.scores import Score, pair
from qprompt.report.tables import Column, Stat, Table

_MEASURES = ("Base", "New", "H")


def scores_of(files: Mapping[str, Sequence[Path]]) -> tuple[list[Score], list[Run], list[str]]:
    """Read the runs of each method.

    Args:
        files: Metrics files by the name of the method. Two methods may share a file.

    Returns:
        The scores under these names; all runs, once each; and warnings.
    """
    scores: list[Score] = []
    runs: dict[Path, Run] = {}
    warnings: list[str] = []
    for method, paths in files.items():
        own, unread = read_runs(paths)
        found, contradictions = pair(own)
        scores += [dataclasses.replace(score, method=method) for score in found]
        runs |= {run.folder: run for run in own}
        warnings += [*unread, *contradictions]
    return scores, list(runs.values()), unique(warnings)


def beside_tables(scores: Sequence[Score]) -> list[Table]:
    """Return the tables of the paper that `scores` are about, one row per method and measure."""
    return [table for entry in published()["tables"] if (table := _beside(entry, scores)).rows]


def _beside(entry: dict[str, Any], scores: Sequence[Score]) -> Table:
    known = unique(s.method for s in scores)
    columns = [
        Column("Method"),
        Column("Accuracy"),
        Column("Paper", "percent"),
        Column("Here", "percent"),
        Column("95% interval"),
        Column("Here - paper", "points"),
        Column("Data sets"),
        Column("Seeds", "count"),
    ]
    notes = [
        f"Paper: {entry['source']}. Here: average over data sets; +- is the standard deviation between seeds that have "
        "all of these data sets, and the interval (Student's t) is that of the average over seeds, for these data sets."
    ]
    rows: list[list[Any]] = []
    partial = False
    for row in entry["rows"]:
        method = next((name for name in known if published_row(name, entry["key"]) is row), None)
        own = [s for s in scores if s.method == method and s.h is not None]
        datasets = unique(s.dataset for s in own)
        complete = set(datasets) == set(published()["datasets"])
        partial |= bool(own) and not complete
        measured = average_over_datasets(own) if own else [None] * len(_MEASURES)
        for name, here in zip(_MEASURES, measured, strict=True):
            if name.lower() in row:
                paper = row[name.lower()]
                difference = Stat(here.mean - paper) if here and complete else None
                count = f"{len(datasets)} of {len(published()['datasets'])}"
                seeds = len({s.seed for s in own})
                shown = [here or NOT_RUN, _interval(here), difference, count, seeds]
                rows.append([row["name"], name, Stat(paper), *shown])
    if partial:
        notes.append("The paper's averages are over all data sets, so there is no difference where some were not run.")
    if all(row[3] == NOT_RUN for row in rows):
        rows = []
    return Table(f"Beside the paper: {entry['title']}", columns, rows, notes, group_by=1)


def _interval(stat: Stat | None) -> str | None:
    """The 95% interval of a mean over seeds; None for fewer than two."""
    from scipy import stats

    if stat is None or stat.std is None or stat.n < 2:
        return None
    half = float(stats.t.ppf(0.975, stat.n - 1)) * stat.std / math.sqrt(stat.n)
    return f"{stat.mean - half:.2f} to {stat.mean + half:.2f}"


def write_reproduction(files: Mapping[str, Sequence[Path]], folder: Path, notes: Sequence[str] = ()) -> str:
    """Write the report on the paper's methods and claims; return it as text.

    Args:
        files: Metrics files by the name of the method, see `scores_of`.
        folder: The output folder.
        notes: What readers must know about these runs.
    """
    scores, runs, warnings = scores_of(files)
    deviations = unique(str(deviation) for run in runs for deviation in run.deviations)
    warnings = [*notes, *(f"a deviation from the protocol: {deviation}" for deviation in deviations), *warnings]
    verdicts = [decide(claim, scores) for claim in claims()]
    summary = [f"{verdict.claim.text}: {verdict.outcome} ({verdict.reason})." for verdict in verdicts]
    tables, beside = claims_tables(verdicts), beside_tables(scores)
    write_report(folder, "reproduction", [*tables, base_new_table(scores)], {}, beside, runs, warnings, summary)
    shown = "".join(f"\nNote: {warning}\n" for warning in warnings)
    return f"{render.text([*beside, *tables])}{shown}\nReport: {folder / 'reproduction.html'}\n"
