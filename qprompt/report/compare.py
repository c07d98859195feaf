"""The comparison table: two methods on the same data sets, draws and seeds."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qprompt.errors import UserError, did_you_mean
from qprompt.report.accuracy import shots_text, unique
from qprompt.report.paired import FEWEST, MOST, Paired, paired
from qprompt.report.scores import Score
from qprompt.report.tables import Column, Stat, Table

_MEASURES = {
    "Base": lambda s: s.accuracy.get("base"),
    "New": lambda s: s.accuracy.get("new"),
    "H": lambda s: s.h,
    "All": lambda s: s.accuracy.get("all"),
}


def default_pairs(scores: Sequence[Score]) -> list[tuple[str, str]]:
    """Return each quantized or noisy method with its plain method: ("CoOp", "QCoOp"), ("CoOp", "NoisyCoOp SIGMA=0.1").

    If there are several plain methods ("CoOp LR=0.01", "CoOp LR=0.1"), the ones with the most settings in common.
    """
    methods = {s.method: s.runs[0].backbone for s in scores if s.shots}
    pairs = []
    for method, backbone in methods.items():
        trainer, *settings = method.split()
        plain = [m for m, b in methods.items() if trainer in _over(m.split()[0]) and b == backbone]
        alike = [len(set(settings) & set(m.split()[1:])) for m in plain]
        pairs += [(m, method) for m, common in zip(plain, alike, strict=True) if common == max(alike)]
    return pairs


def _over(trainer: str) -> tuple[str, str]:
    return f"Q{trainer}", f"Noisy{trainer}"


@dataclass(frozen=True)
class Comparison:
    """The paired differences of two methods in one accuracy, second minus first.

    Attributes:
        first, second: The methods.
        measure: Base, New, H or All.
        shots: Number of shots.
        unit: What one pair is: "datasets" or "runs".
        independent: Whether the pairs are independent samples of what is claimed.
        found: The statistics.
    """

    first: str
    second: str
    measure: str
    shots: int
    unit: str
    independent: bool
    found: Paired


def compare(scores: Sequence[Score], pairs: Sequence[tuple[str, str]], unit: str = "auto") -> list[Comparison]:
    """Return the comparisons of pairs of methods, for every measure and number of shots that both have.

    Args:
        scores: All scores.
        pairs: The pairs of methods (first, second).
        unit: What counts as one independent pair. "datasets": a data set (or draw), averaged over seeds; "runs":
            every seed of every data set; "auto": data sets if there are at least six, else runs, without interval, p
            and number of pairs, since seeds of one data set are not independent data sets.

    Raises:
        UserError: There is no such method.
    """
    known = unique(s.method for s in scores)
    comparisons = []
    for first, second in pairs:
        for name in (first, second):
            if name not in known:
                shown = ", ".join(map(repr, known))
                raise UserError(f"no runs of method {name!r}.{did_you_mean(name, known)} There are: {shown}.")
        for shots in unique(s.shots for s in scores if s.method in (first, second) and s.shots):
            here = [s for s in scores if not s.source and s.shots in (0, shots)]
            for measure in _MEASURES:
                differences, used = paired_differences(here, first, second, measure, unit)
                if differences:
                    independent = unit != "auto" or used == "datasets"
                    found = paired(differences, independent)
                    comparisons.append(Comparison(first, second, measure, shots, used, independent, found))
    return comparisons


def comparison_table(comparisons: Sequence[Comparison]) -> Table | None:
    """Return a table with a row per comparison; None if there is none."""
    if not comparisons:
        return None
    several = len({c.shots for c in comparisons}) > 1
    rows = [
        [
            f"{c.second} - {c.first}",
            f"{c.measure}, {shots_text(c.shots)}" if several else c.measure,
            *_row(c.found),
        ]
        for c in comparisons
    ]
    columns = [
        Column("Comparison"),
        Column("Accuracy"),
        Column("Difference", "points"),
        Column("95% interval", "interval"),
        Column("Better in"),
        Column("p", "p"),
        Column("Pairs needed"),
    ]
    return Table("Paired differences", columns, rows, _notes(comparisons), group_by=1)


def paired_differences(
    scores: Sequence[Score], first: str, second: str, measure: str, unit: str = "auto"
) -> tuple[list[float], str]:
    """Return the differences second minus first, and what counts as one pair ("datasets" or "runs").

    Zero-shot has no randomness: its mean value on a data set is compared with that of every seed.
    """
    a, b = (_values(scores, name, _MEASURES[measure]) for name in (first, second))
    by_place: dict[tuple, list[float]] = defaultdict(list)
    for (place, x_run), x in a.items():
        for (other, y_run), y in b.items():
            if place == other and (None in (x_run, y_run) or x_run == y_run):
                by_place[place].append(y - x)
    if unit == "auto":
        unit = "datasets" if len(by_place) >= FEWEST else "runs"
    if unit == "datasets":
        return [statistics.fmean(found) for found in by_place.values()], unit
    return [d for found in by_place.values() for d in found], unit


def _values(
    scores: Sequence[Score], method: str, measure: Callable[[Score], float | None]
) -> dict[tuple[tuple, tuple | None], float]:
    """Return (place, run) -> value. The runs of a place are its seeds and shots; zero-shot is one run, None."""
    found: dict[tuple[tuple, tuple | None], list[float]] = defaultdict(list)
    for score in scores:
        value = measure(score) if score.method == method else None
        if value is not None:
            found[score.place[:2], (score.seed, score.shots) if score.shots else None].append(value)
    return {key: statistics.fmean(values) for key, values in found.items()}


def _row(found: Paired) -> list:
    interval = None if found.low is None else (found.low, found.high)
    unknown = found.needed is None and found.std is not None and found.p is not None
    needed = f"> {MOST:,}" if unknown else found.needed
    return [
        Stat(found.mean, found.std, found.n),
        interval,
        f"{found.wins} of {found.n}",
        found.p,
        None if needed is None else str(needed),
    ]


def _notes(comparisons: Sequence[Comparison]) -> list[str]:
    meaning = {
        "datasets": "a pair is a data set or draw, averaged over seeds",
        "runs": "a pair is a run (seed): the result holds for these data sets, not for others",
    }
    units = sorted({c.unit for c in comparisons})
    notes = [
        f"Percent points; {'; '.join(meaning[u] for u in units)}; +- is the standard deviation between pairs. "
        "Interval: 95%, bootstrap (BCa). p: Wilcoxon signed-rank, two-sided, exact, not corrected for the number of "
        "rows. Pairs needed: to find a difference of this size at p < 0.05 with 80% probability."
    ]
    if not all(c.independent for c in comparisons):
        notes.append(
            f"No interval and no p: fewer than {FEWEST} data sets or draws were run, and seeds of one data set are not "
            "independent data sets. Run more of them, or type --pairs-are runs to test these data sets alone."
        )
    elif any(c.found.n < FEWEST for c in comparisons):
        notes.append(f"With fewer than {FEWEST} pairs no test reaches p < 0.05, and no interval is given.")
    return notes
