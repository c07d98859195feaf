"""The figure of base and new accuracy over the epochs of training, from evaluations of every checkpoint."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from qprompt.report.accuracy import dataset_name, method_names, unique
from qprompt.report.plotting import legend_below, line_style, new_figure
from qprompt.report.scores import Score

_PANELS = {"base": "base classes", "new": "new classes", "all": "all classes"}


def accuracy_over_epochs(scores: Sequence[Score]) -> Any:
    """Return the figure, or None if no run was evaluated at every checkpoint.

    There is a row of panels per data set, one for base and one for new classes, and a line per method (mean over runs,
    band: standard deviation). Zero-shot accuracy is a horizontal line.
    """
    learned = [s for s in scores if s.curves]
    if not learned:
        return None
    datasets = unique(s.dataset for s in learned)
    panels = [kind for kind in _PANELS if any(kind in s.curves for s in learned)]
    figure, axes = new_figure(len(datasets), len(panels), 3.4, 2.5, sharex="col", sharey="row")
    name = method_names(learned)
    index = {key: number for number, key in enumerate(unique((s.method, s.shots) for s in learned))}
    for row, dataset in zip(axes, datasets, strict=True):
        here = [s for s in scores if s.dataset == dataset]
        for axis, kind in zip(row, panels, strict=True):
            title = _PANELS[kind] if len(datasets) == 1 else f"{dataset_name(here, dataset)}, {_PANELS[kind]}"
            axis.set_title(title, loc="left")
            for (method, shots), number in index.items():
                curves = [s.curves[kind] for s in here if (s.method, s.shots) == (method, shots) and kind in s.curves]
                _draw(axis, curves, name(method, shots), line_style(number))
            _zero_shot(axis, [s for s in here if s.shots == 0 and kind in s.accuracy], kind)
        row[0].set_ylabel("accuracy (%)")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    legend_below(figure, axes)
    return figure


def _draw(axis: Any, curves: Sequence[Sequence[tuple[int, float]]], label: str, style: dict[str, Any]) -> None:
    """Draw the mean over `curves` at the epochs that all of them have."""
    if not curves:
        return
    at: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for epoch, accuracy in curve:
            at[epoch].append(accuracy)
    epochs = [epoch for epoch in sorted(at) if len(at[epoch]) == len(curves)]
    mean = [statistics.fmean(at[epoch]) for epoch in epochs]
    axis.plot(epochs, mean, label=label, marker="o" if len(epochs) == 1 else None, **style)
    if len(curves) > 1:
        std = [statistics.stdev(at[epoch]) for epoch in epochs]
        low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
        axis.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _zero_shot(axis: Any, scores: Sequence[Score], kind: str) -> None:
    for method in unique(s.method for s in scores):
        level = statistics.fmean(s.accuracy[kind] for s in scores if s.method == method)
        axis.axhline(level, color="#000000", linewidth=1, linestyle=(0, (1, 2)), label=f"{method} (no training)")
