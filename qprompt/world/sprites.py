"""From the drawing language of nouns.py to label maps, in integers only.

Nothing here depends on a font, on the platform's floating point or on a drawing library's version, so the
same key gives the same pixels everywhere.
"""

import math
from functools import cache

import numpy as np

from .dice import Dice
from .nouns import NOUNS

SIZE = 96  # pixels of a sprite's side
VARIANTS = 12  # differently deformed drawings of each noun
PARTS = "-abkw"  # label 0 is transparent

# sine of whole degrees in 16.16 fixed point; a last-bit difference between libms cannot change the rounding
SIN = tuple(round(math.sin(math.radians(d)) * 65536) for d in range(360))


def cos(degree: int) -> int:
    return SIN[(degree + 90) % 360]


def sin(degree: int) -> int:
    return SIN[degree % 360]


def fill_polygon(canvas: np.ndarray, points: list[tuple[int, int]], label: int) -> None:
    """Set the pixels of `canvas` (H, W) whose centre is inside the polygon; points in 1/256 pixel (x, y)."""
    height, width = canvas.shape
    px = (np.arange(width, dtype=np.int64) * 256 + 128)[None, :]
    py = (np.arange(height, dtype=np.int64) * 256 + 128)[:, None]
    inside = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if y0 == y1:
            continue
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        rows = slice(max(0, (y0 + 127) // 256), max(0, (y1 + 127) // 256))
        y = py[rows]
        # left of the edge: px < x0 + (y - y0) (x1 - x0) / (y1 - y0), with the division multiplied out
        inside[rows] ^= (px - x0) * (y1 - y0) < (y - y0) * (x1 - x0)
    canvas[inside] = label


def _outlines(look: str) -> list[tuple[int, list[tuple[int, int]]]]:
    """(label, corner points) of each primitive, in 1/256 of the 100 x 100 canvas' units."""
    shapes: list[tuple[int, list[tuple[int, int]]]] = []
    words = look.split()
    while words:
        kind, part = tuple(words.pop(0))
        numbers = []
        while words and words[0].isdigit():
            numbers.append(int(words.pop(0)) * 256)
        label = PARTS.index(part)
        if kind == "R":
            x0, y0, x1, y1 = numbers
            mx, my = (x0 + x1) // 2, (y0 + y1) // 2  # the sides' middles, so that a rectangle can bend too
            shapes.append((label, [(x0, y0), (mx, y0), (x1, y0), (x1, my), (x1, y1), (mx, y1), (x0, y1), (x0, my)]))
        elif kind == "E":
            cx, cy, rx, ry = numbers
            ring = [(cx + (rx * cos(d) >> 16), cy + (ry * sin(d) >> 16)) for d in range(0, 360, 18)]
            shapes.append((label, ring))
        elif kind == "P":
            shapes.append((label, list(zip(numbers[::2], numbers[1::2], strict=True))))
        elif kind == "L":
            width, *rest = numbers
            corners = list(zip(rest[::2], rest[1::2], strict=True))
            for (x0, y0), (x1, y1) in zip(corners, corners[1:], strict=False):
                length = max(1, math.isqrt((x1 - x0) ** 2 + (y1 - y0) ** 2))
                nx, ny = -(y1 - y0) * width // (2 * length), (x1 - x0) * width // (2 * length)
                shapes.append((label, [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)]))
        else:
            raise ValueError(f"unknown primitive {kind!r} in {look!r}")
    return shapes


@cache
def sprite(noun: int, variant: int) -> np.ndarray:
    """(SIZE, SIZE) uint8 labels (an index into PARTS) of one deformed drawing of ``NOUNS[noun]``."""
    dice = Dice("sprite", NOUNS[noun].names[0], variant)
    # a smooth deformation: a pair of waves shifts the points by at most 4 (of 100) units each way
    waves = [(dice.integer(0, 359), dice.integer(1, 3), dice.integer(0, 4)) for _ in range(4)]
    squeeze_x, squeeze_y = dice.integer(86, 100), dice.integer(86, 100)

    def bend(x: int, y: int) -> tuple[int, int]:
        shifts = [
            amount * sin(phase + turns * across // 256) >> 8
            for (phase, turns, amount), across in zip(waves, (x, y, x, y), strict=True)
        ]
        middle = 50 * 256
        x = middle + (x - middle) * squeeze_x // 100 + shifts[1] + shifts[0] // 2
        y = middle + (y - middle) * squeeze_y // 100 + shifts[2] + shifts[3] // 2
        # 100 units fill 92 of the sprite's pixels: 2 pixels of margin
        return x * (SIZE - 4) // 100 + 512, y * (SIZE - 4) // 100 + 512

    canvas = np.zeros((SIZE, SIZE), np.uint8)
    for label, points in _outlines(NOUNS[noun].look):
        fill_polygon(canvas, [bend(x, y) for x, y in points], label)
    canvas.setflags(write=False)
    return canvas
