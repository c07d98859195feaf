"""The claims of the paper, and whether runs bear them out (assets/claims.yaml)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from qprompt.report.compare import Comparison, compare
from qprompt.report.paired import ALPHA, FEWEST
from qprompt.report.published import published
from qprompt.report.scores import Score
from qprompt.report.tables import Column, Stat, Table

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
_TOLERANCE = 1.02  # of a ratio of sizes: codebooks and biases


@dataclass(frozen=True)
class Claim:
    """A claim about two methods; claims.yaml explains the fields."""

    text: str
    kind: str
    first: str
    second: str
    measure: str = "H"
    margin: float = 0.0
    ratio: float = 0.0
    table: str = ""
    control: bool = False


@dataclass(frozen=True)
class Verdict:
    """What runs say about a claim.

    Attributes:
        claim: The claim.
        outcome: HOLDS, FAILS or OPEN.
        reason: The numbers that decide it, or what is missing.
        comparison: The paired differences, if both methods were run.
    """

    claim: Claim
    outcome: str
    reason: str
    comparison: Comparison | None = None


@cache
def assets() -> dict[str, Any]:
    """Return the content of assets/claims.yaml."""
    return yaml.safe_load(resources.files("qprompt").joinpath("assets/claims.yaml").read_text(encoding="utf-8"))


def claims() -> list[Claim]:
    """Return all claims."""
    return [Claim(**claim) for claim in assets()["claims"]]


def published_row(method: str, table: str) -> dict[str, Any] | None:
    """Return the row of published.yaml about a method, None if there is none.

    Args:
        method: As in claims.yaml.
        table: The key of the table.
    """
    name = assets()["rows"].get(method, {}).get(table)
    rows = (row for found in published()["tables"] if found["key"] == table for row in found["rows"])
    return next((row for row in rows if row["name"] == name), None) if name else None


def decide(claim: Claim, scores: Sequence[Score]) -> Verdict:
    """Decide a claim from the scores of its two methods."""
    run = {s.method for s in scores if s.h is not None}
    missing = [name for name in (claim.first, claim.second) if name not in run]
    if missing:
        return Verdict(claim, OPEN, f"not run: {', '.join(missing)}")
    if claim.kind == "size":
        return _size(claim, scores)
    found = compare(scores, [(claim.first, claim.second)])
    comparison = next((c for c in found if c.measure == claim.measure), None)
    if comparison is None:
        return Verdict(claim, OPEN, "no data set was run with both")
    if not comparison.independent or comparison.found.low is None:
        datasets = {s.dataset for s in scores if s.method == claim.second}
        return Verdict(claim, OPEN, f"{len(datasets)} data sets, {FEWEST} are needed", comparison)
    outcome, reason = _RULES[claim.kind](claim, comparison)
    return Verdict(claim, outcome, reason, comparison)


def _above(claim: Claim, comparison: Comparison) -> tuple[str, str]:
    found = comparison.found
    if found.p is None or found.p >= ALPHA:
        return OPEN, "the difference may be chance"
    return (HOLDS, "higher beyond chance") if found.mean > 0 else (FAILS, "lower beyond chance")


def _at_least(claim: Claim, comparison: Comparison) -> tuple[str, str]:
    low, high = _interval(comparison)
    if low > -claim.margin:
        return HOLDS, f"at most {claim.margin} lower"
    return (FAILS, f"more than {claim.margin} lower") if high < -claim.margin else (OPEN, _undecided(claim))


def _alike(claim: Claim, comparison: Comparison) -> tuple[str, str]:
    low, high = _interval(comparison)
    if -claim.margin < low and high < claim.margin:
        return HOLDS, f"within {claim.margin}"
    outside = high < -claim.margin or low > claim.margin
    return (FAILS, f"differs by more than {claim.margin}") if outside else (OPEN, _undecided(claim))


def _undecided(claim: Claim) -> str:
    return f"the interval is too wide for a margin of {claim.margin}"


def _interval(comparison: Comparison) -> tuple[float, float]:
    low, high = comparison.found.low, comparison.found.high
    assert low is not None and high is not None
    return low, high


_RULES: dict[str, Callable[[Claim, Comparison], tuple[str, str]]] = {
    "above": _above,
    "at_least": _at_least,
    "alike": _alike,
}


def _size(claim: Claim, scores: Sequence[Score]) -> Verdict:
    first, second = (
        max((s.stored_bytes or 0 for s in scores if s.method == name), default=0)
        for name in (claim.first, claim.second)
    )
    if not first or not second:
        return Verdict(claim, OPEN, "no record of the stored bytes")
    outcome = HOLDS if second <= claim.ratio * first * _TOLERANCE else FAILS
    return Verdict(claim, outcome, f"{second:,} of {first:,} B: {second / first:.4f}")


def claims_tables(verdicts: Sequence[Verdict]) -> list[Table]:
    """Return a table of the paper's claims and one of the controls."""
    columns = [
        Column("Claim"),
        Column("Here"),
        Column("Because"),
        Column("Difference", "points"),
        Column("95% interval", "interval"),
        Column("p", "p"),
        Column("Better in"),
        Column("Paper", "points"),
    ]
    notes = [
        "Differences are in percent points, paired by data set and averaged over seeds; +- is the standard deviation "
        "between data sets. Interval: bootstrap (BCa). p: Wilcoxon signed-rank, exact, two-sided, not corrected for "
        f"the number of claims. A direction is decided at p < {ALPHA}; 'as good as' and 'does nothing' by the interval "
        "and a margin of this project's choice. Paper: difference of its averages."
    ]
    parts = (("Claims of the paper", False), ("Controls that the paper does not have", True))
    return [
        Table(title, columns, [_row(v) for v in verdicts if v.claim.control == control], notes)
        for title, control in parts
        if any(v.claim.control == control for v in verdicts)
    ]


def _row(verdict: Verdict) -> list[Any]:
    claim, found = verdict.claim, verdict.comparison.found if verdict.comparison else None
    rows = [published_row(name, claim.table) for name in (claim.first, claim.second)]
    key = claim.measure.lower()
    paper = None
    if claim.kind != "size" and rows[0] and rows[1]:
        paper = Stat(rows[1][key] - rows[0][key])
    if found is None:
        return [claim.text, verdict.outcome, verdict.reason, None, None, None, None, paper]
    interval = None if found.low is None else (found.low, found.high)
    difference = Stat(found.mean, found.std, found.n)
    better = f"{found.wins} of {found.n}"
    return [claim.text, verdict.outcome, verdict.reason, difference, interval, found.p, better, paper]
