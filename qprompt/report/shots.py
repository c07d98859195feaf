"""The figure of accuracy over shots (training images per class)."""

from collections.abc import Sequence
from typing import Any

from qprompt.report.accuracy import dataset_name, unique
from qprompt.report.plotting import legend_below, line_style, marker_style, matplotlib, new_figure
from qprompt.report.scores import Score, few_shot
from qprompt.report.tables import Stat

_ACROSS = 4  # panels side by side


def accuracy_over_shots(scores: Sequence[Score]) -> Any:
    """Return the figure, or None if no method was run with two numbers of shots.

    There is a panel per data set, with the average first if there are several, and a line per method (bars: standard
    deviation over runs). Zero-shot accuracy is a horizontal line.
    """
    scores = [s for s in few_shot(scores) if s.shots >= 0]
    learned = unique(s.method for s in scores if s.shots)
    if not any(len({s.shots for s in scores if s.method == m}) > 1 for m in learned):
        return None
    datasets = unique(s.dataset for s in scores)
    panels: list[str | None] = [None, *datasets] if len(datasets) > 1 else [*datasets]
    columns = min(_ACROSS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, 2.9 if columns > 1 else 4.2, 2.5 if columns > 1 else 3.0, sharex=True)
    shots = sorted({s.shots for s in scores if s.shots})
    for axis, dataset in zip(axes.flat, panels, strict=False):
        here = [s for s in scores if dataset in (None, s.dataset)]
        axis.set_title(f"average of {len(datasets)}" if dataset is None else dataset_name(here, dataset), loc="left")
        for index, method in enumerate(learned):
            _draw(axis, [s for s in here if s.method == method], shots, index, method)
        for method in unique(s.method for s in here if not s.shots):
            level = _mean([s for s in here if s.method == method])
            if level:
                label = f"{method} (0 shots)"
                axis.axhline(level.mean, color="#000000", linewidth=1, linestyle=(0, (1, 2)), label=label)
        axis.set_xscale("log", base=2)
        axis.margins(y=0.1)
        axis.set_xticks(shots)
        axis.xaxis.set_major_formatter(matplotlib().ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(matplotlib().ticker.NullLocator())
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)")
    for axis in axes.flat[max(0, len(panels) - columns) : len(panels)]:
        axis.set_xlabel("training images per class")
        axis.xaxis.set_tick_params(labelbottom=True)
    legend_below(figure, axes)
    return figure


def _draw(axis: Any, scores: Sequence[Score], shots: Sequence[int], index: int, label: str) -> None:
    points = [(k, _mean([s for s in scores if s.shots == k])) for k in shots]
    known = [(k, stat) for k, stat in points if stat]
    if known:
        means, errors = [stat.mean for _, stat in known], [stat.std or 0.0 for _, stat in known]
        style = line_style(index) | marker_style(index)
        axis.errorbar([k for k, _ in known], means, yerr=errors, label=label, capsize=2, **style)


def _mean(scores: Sequence[Score]) -> Stat | None:
    """The mean over data sets of the means over runs; the spread only for a single data set."""
    each = [Stat.of(s.accuracy["all"] for s in scores if s.dataset == d) for d in unique(s.dataset for s in scores)]
    known = [stat for stat in each if stat]
    if len(known) == 1:
        return known[0]
    mean = Stat.of(stat.mean for stat in known)
    return Stat(mean.mean, None, mean.n) if mean else None
