"""The mistakes that a run is surest of, as a table and as a sheet of pictures."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from qprompt.report.look.rebuild import Predictions
from qprompt.report.tables import Column, Table

_ACROSS, _SIDE, _LINE, _GAP = 5, 160, 15, 8  # pictures a row; pixels


def surest_mistakes(predictions: Predictions, count: int) -> list[int]:
    """Numbers of the wrongly classified images, the most confident first."""
    confidence = predictions.probabilities.max(dim=1).values
    wrong = (~predictions.correct).nonzero()[:, 0].tolist()
    return sorted(wrong, key=lambda i: -float(confidence[i]))[:count]


def mistakes_table(predictions: Predictions, count: int) -> Table:
    """A row a mistake: how sure, taken for what, what it is, which file."""
    rows: list[list[Any]] = []
    for i in surest_mistakes(predictions, count):
        said, sure = _said(predictions, i)
        rows.append([f"{sure:.1%}", said, predictions.classnames[int(predictions.labels[i])], predictions.paths[i]])
    columns = [Column(name) for name in ("Sure", "Taken for", "Is", "File")]
    wrong = int((~predictions.correct).sum())
    return Table(
        "Surest mistakes", columns, rows, [f"{len(rows)} of {wrong} mistakes on {len(predictions.labels)} images."]
    )


def contact_sheet(predictions: Predictions, count: int) -> Image.Image | None:
    """The pictures of `mistakes_table`, each with what it was taken for and what it is; None when there is none."""
    chosen = surest_mistakes(predictions, count)
    if not chosen:
        return None
    rows = -(-len(chosen) // _ACROSS)
    width, height = _SIDE + _GAP, _SIDE + 2 * _LINE + 2 * _GAP
    sheet = Image.new("RGB", (min(_ACROSS, len(chosen)) * width + _GAP, rows * height + _GAP), "white")
    for place, i in enumerate(chosen):
        x, y = _GAP + place % _ACROSS * width, _GAP + place // _ACROSS * height
        with Image.open(predictions.paths[i]) as picture:
            thumbnail = ImageOps.contain(picture.convert("RGB"), (_SIDE, _SIDE), Image.Resampling.BICUBIC)
        sheet.paste(thumbnail, (x + (_SIDE - thumbnail.width) // 2, y + (_SIDE - thumbnail.height) // 2))
        said, sure = _said(predictions, i)
        _write(
            sheet,
            (x, y + _SIDE + 2),
            [f"{said} {sure:.0%}", f"is {predictions.classnames[int(predictions.labels[i])]}"],
        )
    return sheet


def _said(predictions: Predictions, i: int) -> tuple[str, float]:
    label = int(predictions.predicted[i])
    return predictions.classnames[label], float(predictions.probabilities[i, label])


def _write(sheet: Image.Image, place: tuple[int, int], lines: Sequence[str]) -> None:
    """Two lines of text, cut to the width of a picture: the wrong answer in red, the truth in black."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, (line, colour) in enumerate(zip(lines, ("#B00020", "black"), strict=True)):
        line = line.encode("latin-1", "replace").decode("latin-1")  # what the built-in font has
        while draw.textlength(line, font=font) > _SIDE:
            line = line[:-2] + "."
        draw.text((place[0], place[1] + number * _LINE), line, fill=colour, font=font)
