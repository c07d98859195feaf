"""The figure of base and new accuracy over the epochs of training, from evaluations of every checkpoint."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from qprompt.report.accuracy import dataset_name, method_names, unique
from qprompt.report.plotting import cut, legend_below, line_style, new_figure
from qprompt.report.scores import Score

_PANELS = {"base": "base classes", "new": "new classes", "all": "all classes"}
_ACROSS = 5  # panels side by side
_OTHERS = {"color": "#AAAAAA", "linewidth": 0.8, "zorder": 1}


def accuracy_over_epochs(scores: Sequence[Score]) -> Any:
    """Return the figure, or None if no run was evaluated at every checkpoint.

    There is a panel per method, so that bands do not cover each other: its mean over runs with a band of one standard
    deviation, and the means of the other methods in grey. Each data set has a row for base and one for new classes,
    with one scale. Zero-shot accuracy is a horizontal line.
    """
    learned = [s for s in scores if s.curves]
    if not learned:
        return None
    name = method_names(learned)
    methods = unique((s.method, s.shots) for s in learned)
    groups = [
        (dataset, kind)
        for dataset in unique(s.dataset for s in learned)
        for kind in _PANELS
        if any(kind in s.curves for s in learned if s.dataset == dataset)
    ]
    rows = -(-len(methods) // _ACROSS)  # of one group
    columns = -(-len(methods) // rows)
    figure, axes = new_figure(rows * len(groups), columns, 2.2 if columns > 2 else 3.2, 2.0, sharex=True)
    several = len(unique(dataset for dataset, _ in groups)) > 1
    for number, (dataset, kind) in enumerate(groups):
        panels = axes[number * rows : (number + 1) * rows]
        here = [s for s in scores if s.dataset == dataset]
        _draw_group(panels, here, kind, {method: cut(name(*method), 28) for method in methods})
        label = f"{dataset_name(here, dataset)}\n{_PANELS[kind]}" if several else _PANELS[kind]
        for axis in panels[:, 0]:
            axis.set_ylabel(f"{label}\naccuracy (%)")
    for axis in axes[-rows:].flat[max(0, len(methods) - columns) : len(methods)]:
        axis.set_xlabel("epoch")
        axis.xaxis.set_tick_params(labelbottom=True)
    legend_below(figure, axes)
    return figure


def _draw_group(panels: Any, scores: Sequence[Score], kind: str, titles: dict[tuple[str, int], str]) -> None:
    """Draw the panels of one data set and one kind of classes, a panel per method, all with one scale."""
    curves = {method: _curves(scores, method, kind) for method in titles}
    untrained = [s for s in scores if s.shots == 0 and kind in s.accuracy]
    first = panels[0, 0]
    for number, (axis, (method, title)) in enumerate(zip(panels.flat, titles.items(), strict=False)):
        if axis is not first:
            axis.sharey(first)
            axis.tick_params(labelleft=number % panels.shape[1] == 0)
        axis.set_title(title, loc="left")
        _draw(axis, curves, method, line_style(number)["color"])
        _zero_shot(axis, untrained, kind)
    for axis in panels.flat[len(titles) :]:
        axis.set_visible(False)


def _curves(scores: Sequence[Score], method: tuple[str, int], kind: str) -> list[Sequence[tuple[int, float]]]:
    return [s.curves[kind] for s in scores if (s.method, s.shots) == method and kind in s.curves]


def _draw(axis: Any, curves: dict[Any, list[Sequence[tuple[int, float]]]], shown: Any, colour: str) -> None:
    """Draw the method `shown` with its band, and the means of the other methods in grey."""
    for method, own in curves.items():
        epochs, mean, std = _statistics(own)
        marker = "o" if len(epochs) == 1 else None
        if method != shown:
            axis.plot(epochs, mean, label="the other methods", marker=marker, **_OTHERS)
            continue
        axis.plot(epochs, mean, color=colour, label="_method", marker=marker)
        if len(own) > 1:
            low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
            axis.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)


def _statistics(curves: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[int], list[float], list[float]]:
    """Return the epochs that all curves have, and the mean and standard deviation at each (none for one curve)."""
    at: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for epoch, accuracy in curve:
            at[epoch].append(accuracy)
    epochs = [epoch for epoch in sorted(at) if len(at[epoch]) == len(curves)]
    mean = [statistics.fmean(at[epoch]) for epoch in epochs]
    return epochs, mean, [statistics.stdev(at[epoch]) for epoch in epochs] if len(curves) > 1 else []


def _zero_shot(axis: Any, scores: Sequence[Score], kind: str) -> None:
    for method in unique(s.method for s in scores):
        level = statistics.fmean(s.accuracy[kind] for s in scores if s.method == method)
        axis.axhline(level, color="#000000", linewidth=1, linestyle=(0, (1, 2)), label=f"{method} (no training)")
