"""Render the drawing language of nouns.py to label maps, in integer arithmetic.

The result does not depend on fonts, floating-point arithmetic or the version of a drawing library.
"""

import math
from functools import cache

import numpy as np

from .nouns import NOUNS
from .seeded_random import SeededRandom

SIZE = 96  # pixels of a sprite's side
VARIANTS = 12  # deformed drawings of each noun
PARTS = "-abkw"  # label 0 is transparent

# Sine of whole degrees in 16.16 fixed point. A last-bit difference between C libraries does not change the rounding.
SIN = tuple(round(math.sin(math.radians(d)) * 65536) for d in range(360))


def cos(degree: int) -> int:
    """Return the cosine in 16.16 fixed point."""
    return SIN[(degree + 90) % 360]


def sin(degree: int) -> int:
    """Return the sine in 16.16 fixed point."""
    return SIN[degree % 360]


def fill_polygon(canvas: np.ndarray, points: list[tuple[int, int]], label: int) -> None:
    """Set the pixels with their centre inside a polygon, by the even-odd rule.

    Args:
        canvas: (H, W), changed in place.
        points: The corners (x, y) in 1/256 pixel.
        label: The new value.
    """
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
        # Left of the edge: px < x0 + (y - y0) (x1 - x0) / (y1 - y0), without the division.
        inside[rows] ^= (px - x0) * (y1 - y0) < (y - y0) * (x1 - x0)
    canvas[inside] = label


def _outlines(drawing: str) -> list[tuple[int, list[tuple[int, int]]]]:
    """(label, corners) of each primitive; coordinates are in 1/256 units of the 100 x 100 canvas."""
    shapes: list[tuple[int, list[tuple[int, int]]]] = []
    words = drawing.split()
    while words:
        kind, part = tuple(words.pop(0))
        numbers = []
        while words and words[0].isdigit():
            numbers.append(int(words.pop(0)) * 256)
        label = PARTS.index(part)
        if kind == "R":
            x0, y0, x1, y1 = numbers
            mx, my = (x0 + x1) // 2, (y0 + y1) // 2  # midpoints of the sides, so that the sides can bend
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
            raise ValueError(f"unknown primitive {kind!r} in {drawing!r}")
    return shapes


@cache
def sprite(noun: int, variant: int) -> np.ndarray:
    """Render one deformed drawing of ``NOUNS[noun]``.

    Args:
        noun: The index of the noun.
        variant: The deformation, 0 to VARIANTS - 1.

    Returns:
        (SIZE, SIZE) uint8 labels, indices into PARTS. The array is cached and read-only.
    """
    rng = SeededRandom("sprite", NOUNS[noun].names[0], variant)
    # A smooth deformation: two waves shift the points by at most 4 of 100 units in each direction.
    waves = [(rng.integer(0, 359), rng.integer(1, 3), rng.integer(0, 4)) for _ in range(4)]
    squeeze_x, squeeze_y = rng.integer(86, 100), rng.integer(86, 100)

    def bend(x: int, y: int) -> tuple[int, int]:
        shifts = [
            amount * sin(phase + turns * across // 256) >> 8
            for (phase, turns, amount), across in zip(waves, (x, y, x, y), strict=True)
        ]
        middle = 50 * 256
        x = middle + (x - middle) * squeeze_x // 100 + shifts[1] + shifts[0] // 2
        y = middle + (y - middle) * squeeze_y // 100 + shifts[2] + shifts[3] // 2
        # 100 units are 92 pixels of the sprite: the margin is 2 pixels.
        return x * (SIZE - 4) // 100 + 512, y * (SIZE - 4) // 100 + 512

    canvas = np.zeros((SIZE, SIZE), np.uint8)
    for label, points in _outlines(NOUNS[noun].drawing):
        fill_polygon(canvas, [bend(x, y) for x, y in points], label)
    canvas.setflags(write=False)
    return canvas
