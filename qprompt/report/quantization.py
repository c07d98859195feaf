"""The paper's figures of the weights during training, from the records of quantized runs."""

import logging
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qprompt.errors import UserError
from qprompt.report.accuracy import unique
from qprompt.report.plotting import cut, legend_below, line_style, new_figure
from qprompt.report.records import Run
from qprompt.report.scores import Score

logger = logging.getLogger(__name__)
FILE = "quantization.npz"
_RUNS, _TENSORS, _STAGES = 4, 3, 12  # the most columns, rows (or lines), and histograms in one panel


class Record(NamedTuple):
    """One run of a method with its recorded arrays (see `qprompt.quantization.recorder.Recorder`)."""

    method: str
    run: Run
    arrays: dict[str, np.ndarray]

    @property
    def title(self) -> str:
        """Method, data set and seed."""
        return f"{cut(self.method, 36)}\n{self.run.dataset}, seed {self.run.seed}"

    @property
    def tensors(self) -> list[str]:
        """Names of the first quantized tensors, which are shown."""
        return [str(name) for name in self.arrays["name"][:_TENSORS]]


def records_of(scores: Sequence[Score]) -> list[Record]:
    """Return one recorded run per method: with the most shots, then the first by data set, draw and seed."""
    found: dict[str, Record] = {}
    for score in sorted(scores, key=lambda score: -score.shots):
        for run in score.runs:
            if score.method not in found and run.mode == "train" and (arrays := _read(run.folder / FILE)):
                found[score.method] = Record(score.method, run, arrays)
    return [found[method] for method in unique(s.method for s in scores) if method in found][:_RUNS]


@cache
def _read(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a recorder's file; empty if there is none, or (with a warning, once) if it is damaged."""
    if not file.is_file():
        return {}
    from qprompt.quantization import recorder  # imports torch, which takes seconds

    try:
        arrays = recorder.read(file)
        shape = (len(arrays["step"]), len(arrays["name"]))
        if any(arrays[key].shape != shape for key in ("kl", "sigma", "snr_db", "refit")):
            raise ValueError("the shapes of its arrays do not match")
    except (UserError, KeyError, TypeError, ValueError) as error:
        logger.warning("left out: %s is not a valid record of a quantized run (%s).", file, error)
        return {}
    return arrays if arrays["kl"].size else {}


def divergence_over_steps(scores: Sequence[Score]) -> Any:
    """Return a figure with a column per method: KL since the last fit and the fits, standard deviation, SNR."""
    records = records_of(scores)
    if not records:
        return None
    figure, axes = new_figure(3, len(records), 3.3, 1.9, sharex="col", sharey="row")
    for column, record in zip(axes.T, records, strict=True):
        a = record.arrays
        for index, name in enumerate(record.tensors):
            style = {**line_style(index), "linewidth": 1.0}
            kl = np.where(a["kl"][:, index] > 0, a["kl"][:, index], np.nan)
            column[0].plot(a["step"], kl, label=name, **style)
            column[1].plot(a["step"], a["sigma"][:, index], **style)
            snr = a["snr_db"][:, index]
            column[2].plot(a["step"], np.where(np.isfinite(snr), snr, np.nan), **style)
            fits = a["step"][a["refit"][:, index]]
            # Below the axis, where they hide nothing; one row of ticks a tensor.
            at = np.full(len(fits), -0.05 - 0.05 * index)
            transform = column[0].get_xaxis_transform()
            ticks = column[0].plot(
                fits, at, "|", color=style["color"], transform=transform, clip_on=False, markersize=5
            )
            ticks[0].set_in_layout(False)
        threshold = record.run.flat_config.get("TRAINER.QUANT.KL_THRESHOLD")
        if isinstance(threshold, (int, float)) and threshold > 0:
            column[0].axhline(threshold, color="#000000", linewidth=1, linestyle=(0, (1, 2)), label="T_KL (threshold)")
        column[0].set_yscale("log")
        column[0].tick_params(axis="x", length=0)
        column[0].set_title(record.title, loc="left")
        column[2].set_xlabel("step")
        column[2].locator_params(axis="x", nbins=5)
    for axis, label in zip(axes[:, 0], ("KL to the last fit", "std of latent weights", "SNR (dB)"), strict=True):
        axis.set_ylabel(label)
    legend_below(figure, axes)
    return figure


def weights_over_steps(scores: Sequence[Score]) -> Any:
    """Return a figure of histograms of the latent weights: a column per method, a row per tensor.

    The first histogram is at the bottom. Each has its own scale, so that shapes can be compared while the spread grows.
    The outermost weights (one in two hundred on either side) may be outside the axes.
    """
    records = [r for r in records_of(scores) if any(f"histogram/{name}" in r.arrays for name in r.tensors)]
    if not records:
        return None
    rows = max(len(record.tensors) for record in records)
    figure, axes = new_figure(rows, len(records), 3.0, 2.6)
    for column, record in zip(axes.T, records, strict=True):
        for axis in column[len(record.tensors) :]:
            axis.set_visible(False)
        for axis, name in zip(column, record.tensors, strict=False):
            stages = _stages(record.arrays, name)
            for height, (_, edges, density) in enumerate(stages):
                axis.stairs(
                    height + 1.4 * density / density.max(),
                    edges,
                    baseline=height,
                    fill=True,
                    facecolor="#56B4E9",
                    edgecolor="#00405F",
                    linewidth=0.6,
                    zorder=2 + len(stages) - height,
                )
            if stages:
                axis.set_xlim(*_middle(stages))
            axis.set_title(f"{record.title}\n{name}" if len(record.tensors) > 1 else record.title, loc="left")
            axis.set_yticks(range(len(stages)), [f"{step:,}" for step, _, _ in stages])
            axis.set_xlabel("latent weight")
            axis.locator_params(axis="x", nbins=5)
    for axis in axes[:, 0]:
        axis.set_ylabel("step")
    return figure


def _middle(stages: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """The range of all weights but one in two hundred on either side, at every stage."""
    ends = []
    for _, edges, density in stages:
        below = np.concatenate([[0.0], np.cumsum(density * np.diff(edges))])
        ends.append(np.interp([0.005, 0.995], below, edges))
    return float(np.min(ends)), float(np.max(ends))


def _stages(arrays: dict[str, np.ndarray], name: str) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(step, bin edges, density) of about `_STAGES` evenly spaced histograms, and of the last one."""
    if f"histogram/{name}" not in arrays:
        return []
    steps, ends, counts = (arrays[f"{key}/{name}"] for key in ("histogram_step", "histogram_range", "histogram"))
    chosen = sorted({*range(0, len(steps), -(-len(steps) // _STAGES)), len(steps) - 1})
    stages = []
    for i in chosen:
        low, high = ends[i]
        if not (math.isfinite(low) and math.isfinite(high) and high > low):
            continue
        edges = np.linspace(low, high, counts.shape[1] + 1)
        stages.append((int(steps[i]), edges, counts[i] / counts[i].sum() / (edges[1] - edges[0])))
    return stages
