"""The comparison table: two methods on the same data sets, draws and seeds."""

import statistics
from collections import defaultdict
from collections.abc import Sequence

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


def comparison_table(scores: Sequence[Score], pairs: Sequence[tuple[str, str]], unit: str = "auto") -> Table | None:
    """Return a table with a row per pair of methods and measure; None if there is nothing to pair.

    Args:
        scores: All scores.
        pairs: The pairs of methods (first, second).
        unit: What counts as one independent pair. "datasets": a data set (or draw), averaged over seeds; "runs":
            every seed of every data set; "auto": data sets if there are at least six, else runs.

    Raises:
        UserError: There is no such method.
    """
    known = unique(s.method for s in scores)
    rows: list[list] = []
    units, small = set(), False
    for first, second in pairs:
        for name in (first, second):
            if name not in known:
                shown = ", ".join(map(repr, known))
                raise UserError(f"no runs of method {name!r}.{did_you_mean(name, known)} There are: {shown}.")
        for shots in unique(s.shots for s in scores if s.method in (first, second) and s.shots):
            here = [s for s in scores if not s.source and s.shots in (0, shots)]
            for measure in _MEASURES:
                differences, used = paired_differences(here, first, second, measure, unit)
                if not differences:
                    continue
                found = paired(differences)
                units.add(used)
                small |= found.n < FEWEST
                rows.append([f"{second} - {first}", _measure_name(measure, shots, scores), *_row(found)])
    if not rows:
        return None
    columns = [
        Column("Comparison"),
        Column("Accuracy"),
        Column("Difference", "points"),
        Column("95% interval", "interval"),
        Column("Better in"),
        Column("p", "p"),
        Column("Pairs needed"),
    ]
    return Table("Paired differences", columns, rows, _notes(sorted(units), small), group_by=1)


def paired_differences(
    scores: Sequence[Score], first: str, second: str, measure: str, unit: str = "auto"
) -> tuple[list[float], str]:
    """Return the differences second minus first, and what counts as one pair ("datasets" or "runs").

    A zero-shot run has no randomness: its value is compared with that of every seed.
    """
    value = _MEASURES[measure]
    a, b = ([s for s in scores if s.method == name and value(s) is not None] for name in (first, second))
    others: dict[tuple, list[Score]] = defaultdict(list)
    for score in b:
        others[score.place[:2]].append(score)
    by_place: dict[tuple, list[float]] = defaultdict(list)
    for x in a:
        for y in others[x.place[:2]]:
            if 0 in (x.shots, y.shots) or (x.place, x.shots) == (y.place, y.shots):
                by_place[x.place[:2]].append(value(y) - value(x))
    if unit == "auto":
        unit = "datasets" if len(by_place) >= FEWEST else "runs"
    if unit == "datasets":
        return [statistics.fmean(found) for found in by_place.values()], unit
    return [d for found in by_place.values() for d in found], unit


def _measure_name(measure: str, shots: int, scores: Sequence[Score]) -> str:
    several = len({s.shots for s in scores if s.shots}) > 1
    return f"{measure}, {shots_text(shots)}" if several else measure


def _row(found: Paired) -> list:
    interval = None if found.low is None else (found.low, found.high)
    needed = f"> {MOST:,}" if found.needed is None and found.std is not None else found.needed
    return [
        Stat(found.mean, found.std, found.n),
        interval,
        f"{found.wins} of {found.n}",
        found.p,
        None if needed is None else str(needed),
    ]


def _notes(units: Sequence[str], small: bool) -> list[str]:
    meaning = {
        "datasets": "a pair is a data set or draw, averaged over seeds",
        "runs": "a pair is a run (seed): the result holds for these data sets, not for others",
    }
    notes = [
        f"Percent points; {'; '.join(meaning[u] for u in units)}; +- is the standard deviation between pairs. "
        "Interval: 95%, bootstrap (BCa). p: Wilcoxon signed-rank, two-sided, not corrected for the number of rows. "
        "Pairs needed: to find a difference of this size at p < 0.05 with 80% probability."
    ]
    if small:
        notes.append(
            f"With fewer than {FEWEST} pairs no test reaches p < 0.05, and no interval is given: run more seeds."
        )
    return notes
