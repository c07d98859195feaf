"""Runs paired into scores: one method on one data set, draw, number of shots and seed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from qprompt.report.methods import name_methods, owners_of
from qprompt.report.records import Run


@dataclass
class Score:
    """What the runs of one method on one data set, draw, shots and seed found. Accuracies in percent.

    `accuracy` and `curves` have the keys base, new and all, as far as there were runs.
    """

    method: str
    dataset: str
    draw: int
    shots: int  # 0: zero-shot
    seed: int
    source: str = ""  # the data set that a transferred prompt was learned on
    accuracy: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    stored_bytes: int | None = None
    time_s: float | None = None
    runs: list[Run] = field(default_factory=list)

    @property
    def h(self) -> float | None:
        """Harmonic mean of base and new, where both are there."""
        return harmonic(self.accuracy.get("base"), self.accuracy.get("new"))

    @property
    def place(self) -> tuple[str, int, int]:
        """Where two methods can be paired: (data set, draw, seed)."""
        return (self.dataset, self.draw, self.seed)


def harmonic(base: float | None, new: float | None) -> float | None:
    """Harmonic mean; None where one of the two is missing."""
    if base is None or new is None:
        return None
    return 2 * base * new / (base + new) if base + new else 0.0


def pair(runs: Sequence[Run]) -> tuple[list[Score], list[str]]:
    """Scores of `runs` in a stable order (zero-shot first), and warnings of runs that contradict each other.

    A training run on the base classes gives the base accuracy, evaluations of it give the others.
    """
    warnings: list[str] = []
    scores: dict[tuple, Score] = {}
    taken: dict[tuple, Run] = {}
    # The training run last, so that it has the last word on what it measured itself; then the newest.
    known = zip(runs, name_methods(runs), owners_of(runs), strict=True)
    for run, method, owner in sorted(known, key=lambda known: (known[0].mode == "train", known[0].finished)):
        source = _source(run, owner)
        shots, seed, draw = (owner.shots if run.learns else 0), owner.seed, run.draw
        key = (method, run.dataset, draw, shots, seed, source)
        score = scores.setdefault(key, Score(method, run.dataset, draw, shots, seed, source))
        before = taken.get((*key, run.classes))
        if before and before.accuracy != run.accuracy:
            warnings.append(
                f"{before.folder} and {run.folder} measure the same ({method} on {run.dataset}, {run.classes} classes, "
                f"seed {seed}) and differ ({before.accuracy:.2f}, {run.accuracy:.2f}); the second is used"
            )
        taken[(*key, run.classes)] = run
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
    """The data set that the prompt of `run` was learned on, where it is another than it was tested on."""
    if owner.dataset != run.dataset:
        return owner.dataset
    return f"{owner.dataset} draw {owner.draw}" if owner.draw != run.draw else ""


def _order(score: Score) -> tuple:
    return (score.dataset, score.draw, score.shots != 0, *_family(score.method), score.shots, score.seed)


def _family(method: str) -> tuple[str, bool, str]:
    """CoOp, QCoOp, MaPLe, QMaPLe: a quantized method comes after the one it quantizes."""
    return (method.split()[0].removeprefix("Q"), method.startswith("Q"), method)


def base_to_new(scores: Sequence[Score]) -> list[Score]:
    """Scores of the base-to-new protocol."""
    return [s for s in scores if {"base", "new"} & s.accuracy.keys() and not s.source]


def few_shot(scores: Sequence[Score]) -> list[Score]:
    """Scores on all classes, by number of shots; zero-shot where there is a learned one on the same draw."""
    learned = {(s.dataset, s.draw) for s in scores if "all" in s.accuracy and not s.source and s.shots}
    return [s for s in scores if "all" in s.accuracy and not s.source and (s.dataset, s.draw) in learned]


def transfer(scores: Sequence[Score]) -> list[Score]:
    """Scores of prompts on other data sets than they were learned on, with the zero-shot ones of those data sets."""
    targets = {(s.dataset, s.draw) for s in scores if "all" in s.accuracy and s.source}
    return [s for s in scores if "all" in s.accuracy and (s.dataset, s.draw) in targets and (s.source or not s.shots)]


def by_method(scores: Sequence[Score]) -> dict[tuple[str, int], list[Score]]:
    """(method, shots) -> its scores, in order of appearance."""
    grouped: dict[tuple[str, int], list[Score]] = defaultdict(list)
    for score in scores:
        grouped[score.method, score.shots].append(score)
    return dict(grouped)
