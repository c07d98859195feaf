"""Scores: the runs of one method on one data set, draw, number of shots and seed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from qprompt.report.methods import name_methods, owners_of
from qprompt.report.records import Run


@dataclass
class Score:
    """Results of one method on one data set, draw, number of shots and seed. Accuracies are in percent.

    `accuracy` and `curves` have the keys base, new and all, as far as there are runs.
    """

    method: str
    dataset: str
    draw: int
    shots: int  # 0: zero-shot
    seed: int
    source: str = ""  # the data set on which a transferred prompt was learned
    accuracy: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    stored_bytes: int | None = None
    time_s: float | None = None
    runs: list[Run] = field(default_factory=list)

    @property
    def h(self) -> float | None:
        """Harmonic mean of base and new; None if one is missing."""
        return harmonic(self.accuracy.get("base"), self.accuracy.get("new"))

    @property
    def place(self) -> tuple[str, int, int]:
        """(data set, draw, seed), the same for scores that can be paired."""
        return (self.dataset, self.draw, self.seed)


def harmonic(base: float | None, new: float | None) -> float | None:
    """Return the harmonic mean of base and new; None if one is missing."""
    if base is None or new is None:
        return None
    return 2 * base * new / (base + new) if base + new else 0.0


def pair(runs: Sequence[Run]) -> tuple[list[Score], list[str]]:
    """Group runs into scores.

    A training run on the base classes gives the base accuracy, its evaluations give the other accuracies.

    Returns:
        The scores in a fixed order (zero-shot first), and warnings about runs that contradict each other.
    """
    warnings: list[str] = []
    scores: dict[tuple, Score] = {}
    taken: dict[tuple, Run] = {}
    # Later runs override earlier ones: training runs their evaluations, and new runs old ones.
    known = zip(runs, name_methods(runs), owners_of(runs), strict=True)
    for run, method, owner in sorted(known, key=lambda known: (known[0].mode == "train", known[0].finished)):
        source = _source(run, owner)
        shots, seed, draw = (owner.shots if run.learns else 0), owner.seed, run.draw
        key = (method, run.dataset, draw, shots, seed, source)
        score = scores.setdefault(key, Score(method, run.dataset, draw, shots, seed, source))
        measured = (*key, run.classes)
        before = taken.get(measured)
        if before and before.accuracy != run.accuracy:
            warnings.append(
                f"{before.folder} and {run.folder} measured the same ({method} on {run.dataset}, {run.classes} "
                f"classes, seed {seed}) but differ ({before.accuracy:.2f}, {run.accuracy:.2f}); the second is used"
            )
        taken[measured] = run
        score.accuracy[run.classes] = run.accuracy
        if run.curve:
            score.curves[run.classes] = run.accuracy_by_epoch
        score.runs.append(run)
        if run.stored_bytes is not None:
            score.stored_bytes = run.stored_bytes
        elif owner.stored_bytes is not None:
            score.stored_bytes = owner.stored_bytes
        if run.mode == "train":
            score.time_s = run.time_s
    return sorted(scores.values(), key=_order), warnings


def _source(run: Run, owner: Run) -> str:
    """The data set on which the prompt was learned, if it differs from the one on which it was tested."""
    if owner.dataset != run.dataset:
        return owner.dataset
    return f"{owner.dataset} draw {owner.draw}" if owner.draw != run.draw else ""


def _order(score: Score) -> tuple:
    return (score.dataset, score.draw, score.shots != 0, *_family(score.method), score.shots, score.seed)


def _family(method: str) -> tuple[str, bool, str]:
    """Sort key: a quantized method comes after the one that it quantizes (CoOp, QCoOp, MaPLe, QMaPLe)."""
    return (method.split()[0].removeprefix("Q"), method.startswith("Q"), method)


def base_to_new(scores: Sequence[Score]) -> list[Score]:
    """Return the scores of the base-to-new protocol."""
    return [s for s in scores if {"base", "new"} & s.accuracy.keys() and not s.source]


def few_shot(scores: Sequence[Score]) -> list[Score]:
    """Return the scores on all classes; zero-shot scores only on draws with a learned score."""
    learned = {(s.dataset, s.draw) for s in scores if "all" in s.accuracy and not s.source and s.shots}
    return [s for s in scores if "all" in s.accuracy and not s.source and (s.dataset, s.draw) in learned]


def transfer(scores: Sequence[Score]) -> list[Score]:
    """Return the scores of prompts on data sets on which they were not learned, and zero-shot scores on these."""
    targets = {(s.dataset, s.draw) for s in scores if "all" in s.accuracy and s.source}
    return [s for s in scores if "all" in s.accuracy and (s.dataset, s.draw) in targets and (s.source or not s.shots)]


def by_method(scores: Sequence[Score]) -> dict[tuple[str, int], list[Score]]:
    """Return (method, shots) -> scores, in order of appearance."""
    grouped: dict[tuple[str, int], list[Score]] = defaultdict(list)
    for score in scores:
        grouped[score.method, score.shots].append(score)
    return dict(grouped)
