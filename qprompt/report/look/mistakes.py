"""The most confident errors of a run, as a table and as a contact sheet."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from qprompt.data.images import read_image
from qprompt.data.tree import printable
from qprompt.report.look.rebuild import Predictions
from qprompt.report.tables import Column, Table

_ACROSS, _SIDE, _LINE, _GAP = 5, 160, 15, 8  # pictures per row; pixels


def most_confident_errors(predictions: Predictions, count: int) -> list[int]:
    """Return the indices of up to `count` misclassified images, the most confident first."""
    confidence = predictions.probabilities.max(dim=1).values
    wrong = (~predictions.correct).nonzero()[:, 0].tolist()
    return sorted(wrong, key=lambda i: -float(confidence[i]))[:count]


def mistakes_table(predictions: Predictions, count: int) -> Table:
    """Return a table of the most confident errors: confidence, predicted class, true class, file."""
    rows: list[list[Any]] = []
    for i in most_confident_errors(predictions, count):
        predicted, confidence = _prediction(predictions, i)
        rows.append(
            [
                f"{confidence:.1%}",
                predicted,
                predictions.classnames[int(predictions.labels[i])],
                printable(predictions.paths[i]),
            ]
        )
    columns = [Column(name) for name in ("Confidence", "Predicted", "True class", "File")]
    wrong = int((~predictions.correct).sum())
    notes = [f"{len(rows)} of {wrong} errors on {len(predictions.labels)} images."]
    return Table("Most confident errors", columns, rows, notes)


def contact_sheet(predictions: Predictions, count: int) -> Image.Image | None:
    """Return a picture of the most confident errors, each with its predicted and true class; None without errors."""
    chosen = most_confident_errors(predictions, count)
    if not chosen:
        return None
    rows = -(-len(chosen) // _ACROSS)
    width, height = _SIDE + _GAP, _SIDE + 2 * _LINE + 2 * _GAP
    sheet = Image.new("RGB", (min(_ACROSS, len(chosen)) * width + _GAP, rows * height + _GAP), "white")
    for place, i in enumerate(chosen):
        x, y = _GAP + place % _ACROSS * width, _GAP + place // _ACROSS * height
        picture = read_image(predictions.paths[i], predictions.pixels)
        thumbnail = ImageOps.contain(picture, (_SIDE, _SIDE), Image.Resampling.BICUBIC)
        sheet.paste(thumbnail, (x + (_SIDE - thumbnail.width) // 2, y + (_SIDE - thumbnail.height) // 2))
        predicted, confidence = _prediction(predictions, i)
        lines = [f"{predicted} {confidence:.0%}", f"true: {predictions.classnames[int(predictions.labels[i])]}"]
        _write(sheet, (x, y + _SIDE + 2), lines)
    return sheet


def _prediction(predictions: Predictions, i: int) -> tuple[str, float]:
    """Name and probability of the predicted class."""
    label = int(predictions.predicted[i])
    return predictions.classnames[label], float(predictions.probabilities[i, label])


def _write(sheet: Image.Image, place: tuple[int, int], lines: Sequence[str]) -> None:
    """Write two lines, cut to the width of a picture: the predicted class in red, the true one in black."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, (line, colour) in enumerate(zip(lines, ("#B00020", "black"), strict=True)):
        line = line.encode("latin-1", "replace").decode("latin-1")  # the characters of the built-in font
        while draw.textlength(line, font=font) > _SIDE:
            line = line[:-2] + "."
        draw.text((place[0], place[1] + number * _LINE), line, fill=colour, font=font)
