"""The figure of H against the stored bytes of the prompt."""

from collections.abc import Sequence
from typing import Any

from qprompt.report.accuracy import average_over_datasets, base_new_h, method_names, unique
from qprompt.report.plotting import cut, legend_below, marker_style, matplotlib, new_figure
from qprompt.report.scores import Score, base_to_new, by_method
from qprompt.report.tables import Stat


def h_over_bytes(scores: Sequence[Score]) -> Any:
    """Return the figure, or None if no size is known.

    There is a point per method, with mean and standard deviation as in the base-to-new table. Methods of one trainer
    share a colour and are joined if their sizes differ. Zero-shot stores 0 bytes, which a log scale cannot show: it
    is a horizontal line.
    """
    scores = base_to_new(scores)
    name = method_names(scores)
    several = len({s.dataset for s in scores}) > 1
    points: list[tuple[str, int, Stat]] = []
    levels: list[tuple[str, int, Stat]] = []
    for (method, shots), own in by_method(scores).items():
        h = (average_over_datasets(own) if several else base_new_h(own))[2]
        stored = max((s.stored_bytes for s in own if s.stored_bytes is not None), default=None)
        if h is None or stored is None:
            continue
        (points if stored else levels).append((name(method, shots), stored, h))
    if not points:
        return None
    figure, axes = new_figure(1, 1, 4.6, 3.2)
    axis = axes[0, 0]
    for index, trainer in enumerate(unique(label.split()[0] for label, _, _ in points)):
        line = sorted((p for p in points if p[0].split()[0] == trainer), key=lambda p: p[1])
        sizes, means = [stored for _, stored, _ in line], [h.mean for _, _, h in line]
        errors = [h.std or 0.0 for _, _, h in line]
        style = marker_style(index)
        if len(set(sizes)) < len(sizes):  # settings of the same size: a line between them has no meaning
            style["linestyle"] = "none"
        axis.errorbar(sizes, means, yerr=errors, label=trainer, capsize=2, linewidth=0.8, markersize=6, **style)
        for label, stored, h in line:
            if setting := label.partition(" ")[2]:
                axis.annotate(cut(setting, 24), (stored, h.mean), (4, 4), textcoords="offset points", fontsize=7)
    for label, _, h in levels:
        axis.axhline(h.mean, color="#000000", linewidth=1, linestyle=(0, (1, 2)), label=f"{label} (0 B)")
    axis.set_xscale("log")
    axis.margins(x=0.15, y=0.15)
    sizes = [stored for _, stored, _ in points]
    ticker = matplotlib().ticker
    subs = (1.0,) if max(sizes) > 100 * min(sizes) else (1.0, 2.0, 5.0)
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=subs))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda size, _: _bytes(size)))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.set_xlabel("stored prompt")
    axis.set_ylabel("H (%)")
    datasets = unique(s.dataset for s in scores)
    axis.set_title(datasets[0] if len(datasets) == 1 else f"average of {len(datasets)} data sets", loc="left")
    legend_below(figure, axes, columns=3)
    return figure


def _bytes(size: float) -> str:
    for unit, factor in (("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size:g} B"
