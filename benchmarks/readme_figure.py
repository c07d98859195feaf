"""The picture of the README: accuracy and size in the study of the embedded world (results/tiny_world_study.json).

python benchmarks/readme_figure.py        writes docs/images/result.png
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from qprompt.report import plotting

HERE = Path(__file__).resolve().parent
METHODS = {"zeroshot": "zero-shot CLIP\n0 bytes", "coop": "CoOp\n1,024 bytes", "qcoop1": "QCoOp, 1 bit\n68 bytes"}
COLOURS = {"base": "#7F7F7F", "new": "#0072B2"}


def draw_means(rows: list[dict], method: str, classes: str) -> np.ndarray:
    """Return the accuracy of each draw, averaged over its seeds."""
    by_draw = defaultdict(list)
    for row in rows:
        if row["method"] == method:
            by_draw[row["draw"]].append(row[classes])
    return np.array([np.mean(by_draw[draw]) for draw in sorted(by_draw)])


def main() -> None:
    rows = json.loads((HERE / "results/tiny_world_study.json").read_text(encoding="utf-8"))["rows"]
    with plotting.styled():
        figure, axes = plotting.new_figure(1, 1, 5.6, 2.9)
        axis = axes[0, 0]
        axis.grid(axis="x", visible=False)
        for place, (classes, colour) in enumerate(COLOURS.items()):
            means = [draw_means(rows, method, classes) for method in METHODS]
            heights = [values.mean() for values in means]
            errors = [stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5 for v in means]
            x = np.arange(len(METHODS)) + (place - 0.5) * 0.36
            axis.bar(x, heights, 0.34, yerr=errors, capsize=2, color=colour, label=f"{classes} classes")
            for at, height, error in zip(x, heights, errors, strict=True):
                axis.text(at, height + error + 0.8, f"{height:.1f}", ha="center", fontsize=8)
        axis.set_xticks(range(len(METHODS)), METHODS.values())
        axis.set_ylabel("accuracy (%)")
        axis.set_ylim(0, 100)
        axis.set_title(f"Embedded world, {len(means[0])} draws: mean and 95% interval", loc="left")
        axis.legend(loc="upper left", ncols=2)
        plotting.save(figure, HERE.parent / "docs/images/result", ("png",))


if __name__ == "__main__":
    main()
