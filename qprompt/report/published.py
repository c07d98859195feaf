"""Tables of the paper's numbers beside the measured ones, with their difference, or "not run"."""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from qprompt.report.accuracy import average_over_datasets, unique
from qprompt.report.scores import Score, base_to_new
from qprompt.report.tables import Column, Stat, Table

NOT_RUN = "not run"
_MEASURES = (("base", "Base"), ("new", "New"), ("h", "H"))


@cache
def published() -> dict[str, Any]:
    """Return the content of assets/published.yaml."""
    import yaml

    text = resources.files("qprompt").joinpath("assets/published.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def published_tables(scores: Sequence[Score], anywhere: bool = False) -> list[Table]:
    """Return one table for each table of the paper.

    Args:
        scores: All scores. A row counts as run if its method was run on all data sets of the paper, with the paper's
            backbone and number of shots.
        anywhere: Use runs on any data and backbone. That compares patterns; the tables say that it is not a
            reproduction.
    """
    return [_table(table, base_to_new(scores), anywhere) for table in published()["tables"]]


def has_measured(table: Table) -> bool:
    """Return whether any row of a table of `published_tables` was run."""
    return any(isinstance(entry, Stat) for row in table.rows for entry in row[2::3])


def _table(table: dict[str, Any], scores: Sequence[Score], anywhere: bool) -> Table:
    measures = [(key, name) for key, name in _MEASURES if any(key in row for row in table["rows"])]
    stored = any("stored_kb" in row for row in table["rows"])
    columns = [Column("Method")]
    for _, name in measures:
        columns += [Column(name, "percent"), Column(f"{name} here", "percent"), Column(f"{name} diff.", "points")]
    columns += [Column("Stored"), Column("Stored here", "bytes")] * stored
    title = f"Published: {table['title']}"
    notes = [f"Paper: {published()['source']}. Here: average of the runs. Diff.: here minus paper."]
    if anywhere:
        measured_on = unique(s.dataset for s in scores) + unique(_backbone(s) for s in scores)
        title += ", beside runs on other data (not a reproduction)"
        notes.append(f"Here: {', '.join(measured_on)}. Patterns can be compared, numbers cannot.")
    rows = []
    for row in table["rows"]:
        own = _matching(row, table.get("backbone", ""), scores, anywhere, notes)
        measured = dict(zip(("base", "new", "h"), average_over_datasets(own), strict=True)) if own else {}
        entries: list[Any] = [row["name"]]
        for key, _ in measures:
            entries += _beside(row.get(key), measured.get(key))
        if stored:
            kb = row.get("stored_kb")
            here = max((s.stored_bytes for s in own if s.stored_bytes is not None), default=None)
            entries += [None if kb is None else f"{kb} KB", here]
        rows.append(entries)
    return Table(title, columns, rows, notes)


def _beside(paper: float | None, here: Stat | None) -> list[Any]:
    if paper is None:
        return [None, here, None]
    return [Stat(paper), here or NOT_RUN, Stat(here.mean - paper) if here else None]


def _matching(
    row: dict[str, Any], backbone: str, scores: Sequence[Score], anywhere: bool, notes: list[str]
) -> list[Score]:
    """The scores for a row; of several methods that match, the one with the most data sets and fewest settings.

    `backbone`: for a table about another backbone; empty for the paper's usual one.
    """
    wanted = set(published()["datasets"])
    own = [s for s in scores if _is_method(s, row)]
    if not anywhere:
        shots = (0, published()["shots"])
        own = [s for s in own if s.dataset in wanted and s.shots in shots]
    if backbone or not anywhere:
        own = [s for s in own if _backbone(s) == (backbone or published()["backbone"])]
    by_method = [[s for s in own if s.method == method] for method in unique(s.method for s in own)]
    by_method.sort(key=lambda found: (-len({s.dataset for s in found}), len(found[0].runs[0].changed), found[0].method))
    if not by_method:
        return []
    found = by_method[0]
    if len(by_method) > 1:
        others = ", ".join(each[0].method for each in by_method[1:])
        notes.append(f"{row['name']}: {found[0].method} is shown; {others} would match too.")
    datasets = {s.dataset for s in found if s.h is not None}
    if not anywhere and datasets != wanted:
        notes.append(f"{row['name']}: base and new of {len(datasets)} of the paper's {len(wanted)} data sets were run.")
        return []
    return found


def _is_method(score: Score, row: dict[str, Any]) -> bool:
    run = _learner(score)
    if run.trainer != row["trainer"]:
        return False
    wanted = published()["quant"] | row["settings"] if "settings" in row else {}
    usual = published()["quant"]
    return all(run.flat_config.get(f"TRAINER.QUANT.{key}", usual[key]) == value for key, value in wanted.items())


def _learner(score: Score):
    return next((run for run in score.runs if run.mode == "train"), score.runs[0])


def _backbone(score: Score) -> str:
    """The name of the backbone; "SLIP" if its name or file contains it (SLIP has CLIP's architectures and names)."""
    run = _learner(score)
    file = str(run.flat_config.get("MODEL.BACKBONE.PATH", ""))
    return "SLIP" if "slip" in f"{run.backbone} {file}".lower() else run.backbone
