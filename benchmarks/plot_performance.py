#!/usr/bin/env python3
"""The plot and the tables of docs/internals/performance.md, from benchmarks/results/*.json.

python benchmarks/plot_performance.py            # writes docs/internals/images/performance.png, prints the tables
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
STYLE = {"upstream": "C3o-", "plain": "C7s--", "fast": "C0o-", "bounded": "C0v:", "floor": "k:"}


def results(name):
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def table(head, rows):
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def seconds(row, name, base=None):
    """ "1.09 (33x)": the median, and how many times faster than `base`."""
    if name not in row:
        return "-"
    median = row[name]["median_s"]
    times = f" ({row[base]['median_s'] / median:.1f}x)" if base in row else ""
    return f"{median:.2f}{times}"


def text_encoding():
    rows = sorted(results("text_encoding"), key=lambda row: (row["context"], row["classes"]))
    head = ("classes", "context", "rows", "upstream s", "plain s", "MKL alone s", "fast s", "products s", "floor s")
    head += ("kept MB: upstream", "fast", "")
    cells = []
    for row in rows:
        kept = [row[name]["kept_bytes"] / 1e6 if name in row else 0 for name in ("upstream", "fast")]
        less = f"{kept[0] / kept[1]:.0f}x less" if kept[0] else ""
        cells.append(
            (
                *(f"{row[key]:,}" for key in ("classes", "context", "rows")),
                *(seconds(row, "upstream"), seconds(row, "plain")),
                *(seconds(row, name, "upstream") for name in ("mkl", "fast")),
                *(f"{row['products_s']:.2f}", f"{row['floor_s']:.2f}"),
                *(f"{kept[0]:,.0f}" if kept[0] else "-", f"{kept[1]:,.0f}", less),
            )
        )
    table(head, cells)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    rows = [row for row in rows if row["context"] == 4]
    for name, style in STYLE.items():
        with_it = [row for row in rows if name in row]
        classes = [row["classes"] for row in with_it]
        if name == "floor":
            axes[0].plot([row["classes"] for row in rows], [row["floor_s"] for row in rows], style, label="arithmetic")
            continue
        axes[0].plot(classes, [row[name]["median_s"] for row in with_it], style, label=name)
        axes[1].plot(classes, [row[name]["kept_bytes"] / 1e6 for row in with_it], style, label=name)
    for axis, label in zip(axes, ("CPU seconds, forward and backward", "MB kept for backward"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="classes", title=label)
        axis.grid(True, which="both", alpha=0.25)
    axes[0].legend()
    figure.savefig(HERE.parent / "docs" / "internals" / "images" / "performance.png", dpi=120)


def training_step():
    head = ("step", "classes", "batch", "upstream s", "plain s", "MKL alone s", "fast s", "quantized s")
    head += ("features kept s", "floor s")
    cells = [
        (
            *(str(row[key]) for key in ("method", "classes", "batch")),
            *(seconds(row, "upstream"), seconds(row, "plain")),
            *(seconds(row, name, "upstream") for name in ("mkl", "fast", "quantized", "features")),
            f"{row['floor_s']:.2f}",
        )
        for row in sorted(results("training_step"), key=lambda row: (row["method"], row["batch"], row["classes"]))
    ]
    table(head, cells)


def evaluation():
    head = ("classes", "images", "upstream s", "plain s", "fast s", "features on disk s")
    cells = [
        (
            *(f"{row[key]:,}" for key in ("classes", "images")),
            *(seconds(row, "upstream"), seconds(row, "plain")),
            *(seconds(row, name, "upstream") for name in ("fast", "cached")),
        )
        for row in results("evaluation")
    ]
    table(head, cells)


def memory():
    head = ("step", "classes", "bound MB", "rows", "recomputed", "estimate MB", "tensors MB", "process MB")
    cells = []
    for row in results("memory"):
        method, classes, bound, *plain = row["case"].split(":")
        estimate = f"{row['estimated_peak'] / 1e6:,.0f}" if "estimated_peak" in row else "-"
        share = f"{row['recomputed']} of {row['parts']} parts" if row["parts"] else "-"
        cells.append(
            (
                *(" ".join([method, *plain]), f"{int(classes):,}", bound if bound != "0" else "-", f"{row['rows']:,}"),
                *(share, estimate, *(f"{row[key] / 1e6:,.0f}" for key in ("peak_tensors", "peak_process"))),
            )
        )
    table(head, cells)


def base_to_new():
    head = ("classes", "path", "CoOp and QCoOp, s a seed", "one more bit width, s")
    cells = []
    for row in sorted(results("base_to_new"), key=lambda row: row["classes"]):
        times = [f" ({row[key]:.1f}x)" if row[key] and row["path"] != "upstream" else "" for key in ("both", "width")]
        both, width = f"{row['both_s']:.0f}{times[0]}", f"{row['width_s']:.0f}{times[1]}"
        cells.append((f"{row['classes'] // 2} + {row['classes'] // 2}", row["path"], both, width))
    table(head, cells)


if __name__ == "__main__":
    text_encoding()
    training_step()
    evaluation()
    memory()
    base_to_new()
