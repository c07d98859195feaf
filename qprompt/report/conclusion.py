"""What a comparison means, in one or two plain sentences written from its numbers."""

from collections.abc import Sequence

from qprompt.report.accuracy import shots_text
from qprompt.report.compare import Comparison
from qprompt.report.paired import ALPHA, MOST


def conclusions(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a paragraph per pair of methods and number of shots."""
    groups: dict[tuple[str, str, int], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.first, comparison.second, comparison.shots), []).append(comparison)
    several = len({c.shots for c in comparisons}) > 1
    return [_paragraph(group, several) for group in groups.values()]


def _paragraph(group: Sequence[Comparison], several_shots: bool) -> str:
    first, second, shots, n = group[0].first, group[0].second, group[0].shots, group[0].found.n
    pairs = "data set or draw" if group[0].unit == "datasets" else "run"
    where = f"{n} {pairs if n == 1 else pairs.replace('set', 'sets').replace('draw', 'draws').replace('run', 'runs')}"
    title = f"{second} against {first}, {where}" + (f", {shots_text(shots)}" if several_shots else "")
    differences = "; ".join(f"{_name(c)} {_difference(c)}" for c in group)
    if not group[0].independent:
        return f"{title}: {differences}. These are too few data sets or draws to tell a difference from chance."
    said = [_clear(c) for c in group if _significant(c)]
    said += [_open(c) for c in group if not _significant(c)]
    sentence = "; ".join(said)
    return f"{title}: {differences}. {sentence[:1].upper()}{sentence[1:]}."


def _name(comparison: Comparison) -> str:
    return comparison.measure if comparison.measure == "H" else comparison.measure.lower()


def _difference(comparison: Comparison) -> str:
    found = comparison.found
    interval = "" if found.low is None else f" (95% interval {found.low:+.1f} to {found.high:+.1f})"
    return f"{found.mean:+.1f} points{interval}"


def _significant(comparison: Comparison) -> bool:
    return comparison.found.p is not None and comparison.found.p < ALPHA


def _interval_excludes_zero(comparison: Comparison) -> bool | None:
    low, high = comparison.found.low, comparison.found.high
    return None if low is None or high is None else low > 0 or high < 0


def _clear(comparison: Comparison) -> str:
    direction = "higher" if comparison.found.mean > 0 else "lower"
    said = f"{_name(comparison)} accuracy is {direction} beyond chance"
    if _interval_excludes_zero(comparison) is False:
        said += f" by the signed-rank test (p = {comparison.found.p:.2g}), but the interval contains zero"
    return said


def _open(comparison: Comparison) -> str:
    said = f"the difference in {_name(comparison)} may be chance"
    if _interval_excludes_zero(comparison):
        said += f" by the signed-rank test (p = {comparison.found.p:.2g}), although the interval excludes zero"
    return said + _needed(comparison)


def _needed(comparison: Comparison) -> str:
    needed = comparison.found.needed
    if comparison.found.std is None:
        return ""
    return f" (about {needed:,} pairs would show it)" if needed else f" (more than {MOST:,} pairs would be needed)"
