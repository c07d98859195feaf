#!/usr/bin/env python3
"""The plots and tables of docs/internals/performance.md and the plot of ablations.md, from benchmarks/results/.

python benchmarks/plot_performance.py        # writes docs/internals/images/*.png, prints the tables
"""

import argparse
import csv
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from qprompt.report.plotting import legend_below, marker_style, matplotlib, new_figure, styled, to_bytes  # noqa: E402

IMAGES = HERE.parent / "docs" / "internals" / "images"
LABELS = {
    "upstream": "upstream: CoOp's code",
    "plain": "plain: unmodified model",
    "fast": "fast: the default",
    "bounded": "fast, a quarter of the memory",
}


def results(name):
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def table(head, rows):
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def seconds(row, name, base=None):
    """Return "1.09 (33x)": the median, and how many times faster it is than `base`."""
    if name not in row:
        return "-"
    median = row[name]["median_s"]
    times = f" ({row[base]['median_s'] / median:.1f}x)" if base in row else ""
    return f"{median:.2f}{times}"


def text_encoding():
    rows = sorted(results("text_encoding"), key=lambda row: (row["context"], row["classes"]))
    head = ("classes", "context", "rows", "upstream s", "plain s", "MKL alone s", "fast s", "products s", "floor s")
    head += ("saved MB: upstream", "saved MB: fast", "")
    cells = []
    for row in rows:
        saved = [row[name]["kept_bytes"] / 1e6 if name in row else 0 for name in ("upstream", "fast")]
        less = f"{saved[0] / saved[1]:.0f}x less" if saved[0] else ""
        cells.append(
            (
                *(f"{row[key]:,}" for key in ("classes", "context", "rows")),
                *(seconds(row, "upstream"), seconds(row, "plain")),
                *(seconds(row, name, "upstream") for name in ("mkl", "fast")),
                *(f"{row['products_s']:.2f}", f"{row['floor_s']:.2f}"),
                *(f"{saved[0]:,.0f}" if saved[0] else "-", f"{saved[1]:,.0f}", less),
            )
        )
    table(head, cells)
    plot_text_encoding([row for row in rows if row["context"] == 4])


def plot_text_encoding(rows):
    """Draw time and memory by number of classes."""
    with styled():
        figure, axes = new_figure(1, 2, 3.9, 3.2, sharex=True)
        time, memory = axes[0]
        for index, (name, label) in enumerate(LABELS.items()):
            measured = [row for row in rows if name in row]
            classes = [row["classes"] for row in measured]
            style = {"label": label, "linestyle": "--" if name == "plain" else "-", **marker_style(index)}
            time.plot(classes, [row[name]["median_s"] for row in measured], **style)
            memory.plot(classes, [row[name]["kept_bytes"] / 1e6 for row in measured], **style)
        floor = {"label": "floor: matrix products alone", "color": "#000000", "linestyle": ":"}
        time.plot([row["classes"] for row in rows], [row["floor_s"] for row in rows], **floor)
        time.set(title="Time of text encoding", ylabel="CPU time, forward and backward (s)")
        memory.set(title="Memory of text encoding", ylabel="saved for the backward pass (MB)")
        ticker = matplotlib().ticker
        for axis in axes.flat:
            axis.set(xscale="log", yscale="log", xlabel="number of classes")
            axis.set_xticks([row["classes"] for row in rows])
            axis.xaxis.set_minor_locator(ticker.NullLocator())
            for each in (axis.xaxis, axis.yaxis):
                each.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        legend_below(figure, axes, columns=3)
        (IMAGES / "text_encoding_time_and_memory.png").write_bytes(to_bytes(figure, "png"))


def noise():
    """Draw the paired differences of the ablation of noise, a panel per accuracy."""
    with open(HERE / "results" / "ablations" / "noise.csv", encoding="utf-8") as file:
        blocks = [block.splitlines() for block in file.read().split("\n\n")]
    rows = [row for block in blocks for row in csv.DictReader(block) if row["table"] == "Paired differences"]
    methods = list(dict.fromkeys(row["comparison"].removesuffix(" - CoOp") for row in rows))
    with styled():
        figure, axes = new_figure(1, 3, 2.6, 2.4, sharex=True, sharey=True)
        for axis, (accuracy, title) in zip(
            axes.flat, {"Base": "base classes", "New": "new classes", "H": "H"}.items(), strict=True
        ):
            for place, method in enumerate(methods):
                (row,) = [r for r in rows if (r["comparison"], r["accuracy"]) == (f"{method} - CoOp", accuracy)]
                mean, low, high = (float(row[key]) for key in ("difference", "95%_interval_low", "95%_interval_high"))
                style = {**marker_style(place), "capsize": 3, "linestyle": "none", "markersize": 6}
                axis.errorbar([mean], [place], xerr=[[mean - low], [high - mean]], **style)
            axis.axvline(0, color="#000000", linewidth=1, linestyle=":")
            axis.set_yticks(range(len(methods)), [method.replace("NoisyCoOp SIGMA=", "noise ") for method in methods])
            axis.set(title=title, xlabel="points above CoOp", ylim=(len(methods) - 0.5, -0.5))
        (IMAGES / "noise_and_quantization.png").write_bytes(to_bytes(figure, "png"))


def training_step():
    head = ("step", "classes", "batch", "upstream s", "plain s", "MKL alone s", "fast s", "quantized s")
    head += ("cached features s", "floor s")
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
    head = ("classes", "images", "upstream s", "plain s", "fast s", "cached features s")
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
    head = ("step", "classes", "limit MB", "rows", "recomputed", "estimate MB", "tensors MB", "process MB")
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
    head = ("classes, base + new", "path", "CoOp and QCoOp, s per seed", "one more bit width, s")
    cells = []
    for row in sorted(results("base_to_new"), key=lambda row: row["classes"]):
        times = [f" ({row[key]:.1f}x)" if row[key] and row["path"] != "upstream" else "" for key in ("both", "width")]
        both, width = f"{row['both_s']:.0f}{times[0]}", f"{row['width_s']:.0f}{times[1]}"
        cells.append((f"{row['classes'] // 2} + {row['classes'] // 2}", row["path"], both, width))
    table(head, cells)


def kmeans():
    rows = results("kmeans")
    cases = list(dict.fromkeys((row["n"], row["k"]) for row in rows))
    for n, k in cases:
        print(f"\n{n:,} values, {k} levels")
        cells = [
            (
                *(f"{row['library']}, {row['settings']}", f"{row['relative_time']:.2f}"),
                *(f"{max(0, row[key]):.2%}" for key in ("excess", "worst_excess")),
            )
            for row in sorted(rows, key=lambda row: (row["n"], row["k"], row["relative_time"]))
            if (row["n"], row["k"]) == (n, k)
        ]
        table(("method", "time", "excess", "worst excess"), cells)
    plot_kmeans(rows, cases)


def plot_kmeans(rows, cases):
    """Draw the excess over the optimum by time, a panel per size."""
    optimal = 1e-7  # smaller excess is drawn here: differences of float32 levels
    libraries = sorted({row["library"] for row in rows}, key=lambda name: (name != "qprompt", name))
    with styled():
        figure, axes = new_figure(1, len(cases), 2.5, 3, sharey=True)
        for axis, (n, k) in zip(axes.flat, cases, strict=True):
            for index, library in enumerate(libraries):
                shown = [row for row in rows if (row["n"], row["k"], row["library"]) == (n, k, library)]
                shown.sort(key=lambda row: row["relative_time"])
                style = {**marker_style(index), "linestyle": "-" if library == "qprompt" else "none", "alpha": 0.9}
                excess = [max(optimal, row["excess"]) for row in shown]
                axis.plot([row["relative_time"] for row in shown], excess, label=library, **style)
            axis.set(xscale="log", yscale="log", title=f"{n:,} values, {k} levels", xlabel="time (qprompt, all = 1)")
            axis.axvline(1, color="#000000", linewidth=1, linestyle=":")
        axes[0, 0].set(ylabel="squared error above the optimum", ylim=(optimal / 2, 4))
        ticks = [optimal, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]
        axes[0, 0].set_yticks(ticks, ["optimal", *(f"{100 * tick:g}%" for tick in ticks[1:])])
        axes[0, 0].yaxis.set_minor_locator(matplotlib().ticker.NullLocator())
        legend_below(figure, axes, columns=len(libraries))
        (IMAGES / "kmeans_time_and_error.png").write_bytes(to_bytes(figure, "png"))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    text_encoding()
    training_step()
    evaluation()
    memory()
    base_to_new()
    noise()
    kmeans()
