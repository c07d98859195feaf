"""What all figures share: matplotlib (an optional extra), the look, and how they are saved.

The colours are Okabe and Ito's, told apart by the colour-blind; line style and marker differ too, for print in grey.
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
    """The module, with the submodules that figures need; UserError saying so where it is not installed."""
    try:
        import matplotlib
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError:
        raise UserError("figures need matplotlib, which is not installed: pip install matplotlib") from None
    return matplotlib


def styled() -> Any:
    """Context in which figures are made and saved."""
    return matplotlib().rc_context(_STYLE)


def new_figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """A figure of rows x columns axes, each width x height inches; no global state, no display.

    Returns (figure, axes), axes as a 2-d array.
    """
    figure = matplotlib().figure.Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the index-th method; distinct for the first 40."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": _DASHES[(index + index // len(_COLOURS)) % len(_DASHES)],
    }


def marker_style(index: int) -> dict[str, Any]:
    """Colour and marker of the index-th method."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[(index + index // len(_COLOURS)) % len(_MARKERS)],
    }


def legend_below(figure: Any, axes: Any, columns: int = 4) -> None:
    """One legend under all axes, every label once."""
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
    """At most so many characters of `text`, of both its ends: figures have no room for a whole list; tables have."""
    if len(text) <= longest:
        return text
    front = (longest - 3) // 2
    return f"{text[:front]}...{text[front + 3 - longest :]}"


def to_bytes(figure: Any, kind: str) -> bytes:
    """The figure as a file of that kind, without a date: equal records give equal files."""
    out = io.BytesIO()
    metadata = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    with matplotlib().rc_context({**_STYLE, "svg.hashsalt": "qprompt"}):
        figure.savefig(out, format=kind, dpi=200, metadata=metadata)
    return out.getvalue()


def save(figure: Any, stem: Path, kinds: Sequence[str] = FORMATS) -> list[Path]:
    """Write `stem`.png, .pdf and .svg, each whole or not at all."""
    paths = []
    for kind in kinds:
        path = stem.with_name(f"{stem.name}.{kind}")
        with atomic_open(path) as file:
            file.write(to_bytes(figure, kind))
        paths.append(path)
    return paths
