"""Shared parts of all figures: matplotlib (an optional dependency), style, and saving.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish. Line styles and markers differ too,
for print in grey.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qprompt.errors import UserError
from qprompt.io.files import atomic_open

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
_DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # TrueType: editable, and accepted by publishers
    "savefig.bbox": "tight",
}
FORMATS = ("png", "pdf", "svg")


def matplotlib() -> Any:
    """Return the matplotlib module with the submodules that figures need; UserError if it is not installed."""
    try:
        import matplotlib
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError:
        raise UserError("figures need matplotlib, which is not installed: pip install matplotlib") from None
    return matplotlib


def styled() -> Any:
    """Return the context in which figures are made."""
    return matplotlib().rc_context(_STYLE)


def new_figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """Make a figure of rows x columns axes without global state and display.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        width: Of each axes in inches.
        height: Of each axes in inches.
        **options: For matplotlib's ``Figure.subplots``.

    Returns:
        The figure, and its axes as a 2-d array.
    """
    figure = matplotlib().figure.Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def line_style(index: int) -> dict[str, Any]:
    """Return the colour and dashes of the index-th method, distinct for the first 40."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": _DASHES[(index + index // len(_COLOURS)) % len(_DASHES)],
    }


def marker_style(index: int) -> dict[str, Any]:
    """Return the colour and marker of the index-th method."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[(index + index // len(_COLOURS)) % len(_MARKERS)],
    }


def legend_below(figure: Any, axes: Any, columns: int = 4) -> None:
    """Put one legend with every label once under all axes."""
    entries: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    entries = dict(sorted(entries.items(), key=lambda entry: entry[0].endswith(")")))  # zero-shot last
    if entries:
        labels = [cut(label, 60) for label in entries]
        ncols = max(1, min(columns, len(labels), 100 // max(map(len, labels))))
        figure.legend(entries.values(), labels, loc="outside lower center", ncols=ncols, handlelength=3)


def cut(text: str, longest: int) -> str:
    """Shorten a text to `longest` characters by leaving out its middle: figures have less room than tables."""
    if len(text) <= longest:
        return text
    front = (longest - 3) // 2
    return f"{text[:front]}...{text[front + 3 - longest :]}"


def to_bytes(figure: Any, kind: str) -> bytes:
    """Return a figure as a file, without a date: the same records give the same bytes.

    Args:
        figure: The matplotlib figure.
        kind: png, pdf or svg.
    """
    out = io.BytesIO()
    metadata = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    with matplotlib().rc_context({**_STYLE, "svg.hashsalt": "qprompt"}):
        figure.savefig(out, format=kind, dpi=200, metadata=metadata)
    return out.getvalue()


def save(figure: Any, stem: Path, kinds: Sequence[str] = FORMATS) -> list[Path]:
    """Write `stem`.png, .pdf and .svg, each completely or not at all; return their paths."""
    paths = []
    for kind in kinds:
        path = stem.with_name(f"{stem.name}.{kind}")
        with atomic_open(path) as file:
            file.write(to_bytes(figure, kind))
        paths.append(path)
    return paths
