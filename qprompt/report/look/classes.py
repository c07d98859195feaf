"""Accuracy per class, confused classes, and the classes for which one prompt is better than another."""

from collections import Counter
from typing import Any

import torch

from qprompt.report.look.rebuild import Predictions
from qprompt.report.plotting import new_figure
from qprompt.report.tables import Column, Stat, Table

_LABELLED = 60  # up to this number of classes the confusion matrix has names and numbers


def class_table(name: str, ours: Predictions, other_name: str = "", other: Predictions | None = None) -> Table:
    """Return a table with a row per class: test images, accuracy, and the classes with which it is confused.

    Args:
        name: Of the run.
        ours: Its predictions.
        other_name: Of another prompt.
        other: Its predictions for the same images. They add its accuracy, the difference (ours minus other), and the
            images that only one of the two prompts classifies correctly. The class with the largest gain comes first.
    """
    rows: list[list[Any]] = []
    for label, classname in enumerate(ours.classnames):
        here = ours.labels == label
        count = int(here.sum())
        row: list[Any] = [classname, count, _accuracy(ours, here)]
        if other is not None:
            gained, lost = (
                int((ours.correct & ~other.correct & here).sum()),
                int((other.correct & ~ours.correct & here).sum()),
            )
            difference = Stat(100 * (gained - lost) / count) if count else None
            row += [_accuracy(other, here), difference, f"+{gained} -{lost}"]
        rows.append([*row, _confused_with(ours, here)])
    title, notes = "Classes", ["Accuracy in %, on the test images of each class."]
    columns = [Column("Class"), Column("Images", "count"), Column(name, "percent")]
    if other is not None:
        rows.sort(key=lambda row: -(row[4].mean if row[4] else 0.0))
        columns += [Column(other_name, "percent"), Column("Difference", "points"), Column("Won, lost")]
        title, notes = f"Classes: {name} against {other_name}", [*notes, _verdict(name, other_name, ours, other)]
    columns.append(Column("Confused with"))
    return Table(title, columns, rows, notes)


def _accuracy(predictions: Predictions, here: torch.Tensor) -> Stat | None:
    return Stat(100 * float(predictions.correct[here].float().mean())) if bool(here.any()) else None


def _confused_with(predictions: Predictions, here: torch.Tensor) -> str:
    wrong = Counter(predictions.predicted[here & ~predictions.correct].tolist()).most_common(2)
    return ", ".join(f"{predictions.classnames[label]} ({count})" for label, count in wrong) or "-"


def _verdict(name: str, other_name: str, ours: Predictions, other: Predictions) -> str:
    """Images that only one of the two classifies correctly, with McNemar's exact test of the two counts."""
    from scipy import stats

    gained, lost = int((ours.correct & ~other.correct).sum()), int((other.correct & ~ours.correct).sum())
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return (
        f"Won, lost: images that only {name} (+) or only {other_name} (-) classifies correctly. In all +{gained} "
        f"-{lost} of {len(ours.labels)} (McNemar's exact test on these images: p = {p:.3g})."
    )


def confusion(predictions: Predictions) -> torch.Tensor:
    """Return the confusion matrix, (C, C) int64: images of class (row) that were predicted as class (column)."""
    size = len(predictions.classnames)
    cells = predictions.labels * size + predictions.predicted
    return torch.bincount(cells, minlength=size * size).reshape(size, size)


def confusion_figure(predictions: Predictions, title: str) -> Any:
    """Return a figure of the confusion matrix: colours in percent of the true class, numbers of images in the cells.

    With more than `_LABELLED` classes the cells are too small for numbers, and the axes for names.
    """
    counts = confusion(predictions)
    share = 100 * counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    size = len(predictions.classnames)
    labelled = size <= _LABELLED
    cell = max(0.19, 0.06 * len(str(int(counts.max()))) + 0.05)  # inches
    side = max(3.2, cell * size + 1.2) if labelled else 7.0
    figure, axes = new_figure(1, 1, side + 1.2, side)
    axis = axes[0, 0]
    image = axis.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=100)
    axis.grid(False)
    axis.set_title(title, loc="left")
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    if labelled:
        axis.set_xticks(range(size), predictions.classnames, rotation=90, fontsize=7)
        axis.set_yticks(range(size), predictions.classnames, fontsize=7)
        for row, column in counts.nonzero().tolist():
            colour = "white" if share[row, column] > 50 else "black"
            number = str(int(counts[row, column]))
            axis.text(column, row, number, ha="center", va="center", color=colour, fontsize=6)
    figure.colorbar(image, ax=axis, label="% of the class", shrink=0.8)
    return figure
