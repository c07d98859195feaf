"""Scenes (descriptions of images) and their rendering, in integer arithmetic."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from .nouns import NOUNS
from .seeded_random import SeededRandom
from .sprites import SIZE, VARIANTS, cos, sin, sprite

RESOLUTION = 48  # pixels of an image's side; rendered at twice this resolution and averaged

COLOURS = {
    "red": (208, 36, 32),
    "orange": (240, 132, 24),
    "yellow": (238, 214, 44),
    "green": (44, 150, 52),
    "cyan": (60, 200, 206),
    "blue": (36, 80, 204),
    "purple": (126, 50, 160),
    "pink": (242, 136, 176),
    "brown": (122, 76, 38),
    "black": (34, 34, 38),
    "gray": (132, 132, 136),
    "white": (240, 240, 236),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
# A background is a place with fixed colours, or "plain" in any colour.
BACKGROUNDS = ("plain", "grass", "sand", "sky", "water", "night", "snow", "brick", "wood", "cloth")
STYLES = ("photo", "sketch", "blurry", "dark", "bright", "noisy", "gray", "pixelated", "foggy")
PLACES = ("center", "left", "right", "top", "bottom")
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Scene:
    """The content of an image. `seed` determines the rest: exact position, texture of the background, noise."""

    noun: int  # index into NOUNS
    colour: str
    accent: str
    texture: str = "plain"
    background: str = "plain"
    background_colour: str = "white"
    style: str = "photo"
    place: str = "center"
    size: str = "medium"
    tilt: int = 0  # degrees
    flip: bool = False
    clutter: int = 0  # number of random squares
    seed: str = ""


def random_scene(rng: SeededRandom, variety: int = 100) -> Scene:
    """Return a random scene from the distribution that the embedded CLIP was trained on.

    Args:
        rng: The source of random choices.
        variety: 0 to 100, scales how often an image has a style, a strong tilt, clutter or an unusual place. Training
            starts with simple images.
    """
    colour = rng.choice(tuple(COLOURS))
    accent = rng.choice([c for c in COLOURS if c != colour])
    background = rng.choice(BACKGROUNDS) if rng.chance(55) else "plain"
    return Scene(
        noun=rng.integer(0, len(NOUNS) - 1),
        colour=colour,
        accent=accent,
        texture=rng.choice(TEXTURES[1:]) if rng.chance(30 * variety // 100) else "plain",
        background=background,
        background_colour=rng.choice([c for c in COLOURS if c != colour]),
        style=rng.choice(STYLES[1:]) if rng.chance(45 * variety // 100) else "photo",
        place=rng.choice(PLACES[1:]) if rng.chance(20 + 25 * variety // 100) else "center",
        size=rng.choice(SIZES),
        tilt=rng.integer(-20, 20) if rng.chance(80) else rng.integer(-60, 60) * variety // 100,
        flip=rng.chance(50),
        clutter=rng.integer(1, 5) if rng.chance(40 * variety // 100) else 0,
        seed=str(rng.integer(0, 2**40)),
    )


@cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """(SIZE, SIZE) int32 x and y of each rendered pixel."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.int32)
    return x, y


def _pattern(texture: str, x: np.ndarray, y: np.ndarray, period: int) -> np.ndarray:
    """The mask of a texture's second shade."""
    if texture == "striped":
        return (x + y) % (2 * period) < period
    if texture == "dotted":
        return (x % (2 * period) - period) ** 2 + (y % (2 * period) - period) ** 2 < (period * 7 // 10) ** 2
    if texture == "checkered":
        return ((x // period) + (y // period)) % 2 == 0
    return np.zeros_like(x, bool)


def _background(scene: Scene, rng: SeededRandom) -> np.ndarray:
    """(SIZE, SIZE, 3) int16 background."""
    x, y = _grid()
    base = {
        "grass": (80, 158, 62), "sand": (216, 190, 136), "sky": (130, 186, 236), "water": (40, 104, 160),
        "night": (20, 22, 58), "snow": (226, 232, 240), "brick": (166, 82, 62), "wood": (158, 112, 66),
    }.get(scene.background, COLOURS[scene.background_colour])  # fmt: skip
    image = np.empty((SIZE, SIZE, 3), np.int16)
    image[:] = np.array(base, np.int16) + rng.integer(-14, 14)
    shift = rng.integer(0, 47)
    if scene.background in ("grass", "sand", "snow"):
        # Coarse noise of 2 x 2 rendered pixels: strongest for grass, weakest for snow.
        grain = rng.bytes(SIZE * SIZE // 4).astype(np.int16).reshape(SIZE // 2, SIZE // 2) - 128
        strength = {"grass": 4, "sand": 8, "snow": 14}[scene.background]
        image += (grain // strength).repeat(2, 0).repeat(2, 1)[:, :, None]
    elif scene.background == "sky":
        image += (y // 3 - 10).astype(np.int16)[:, :, None]
    elif scene.background == "water":
        wave = ((np.abs((x + shift) % 24 - 12) + y * 2) % 20 < 5).astype(np.int16)
        image += (wave * 50)[:, :, None]
    elif scene.background == "night":
        for _ in range(rng.integer(8, 16)):
            u, v = rng.integer(0, SIZE - 3), rng.integer(0, SIZE - 3)
            image[v : v + 3, u : u + 3] = (230, 230, 190)
    elif scene.background == "brick":
        row = (y + shift) // 12
        mortar = ((y + shift) % 12 < 2) | ((x + row % 2 * 12 + shift) % 24 < 2)
        image[mortar] = (206, 198, 186)
    elif scene.background == "wood":
        image += ((((y + shift) // 16) * 37 % 5 - 2) * 9).astype(np.int16)[:, :, None]
        image[(y + shift) % 16 < 2] = (92, 60, 32)
    elif scene.background == "cloth":
        image[_pattern("checkered", x + shift, y + shift, 12)] = (238, 236, 228)
    return image


def _labels(scene: Scene, rng: SeededRandom) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(SIZE, SIZE) part labels of the object in the image, and the sprite coordinates (u, v) of each pixel."""
    x, y = _grid()
    percent = {"small": 56, "medium": 74, "large": 92}[scene.size] + rng.integer(-6, 6)
    room = max(0, (100 - percent) * SIZE // 200)  # how far the centre can move without clipping the object
    dx, dy = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}.get(scene.place, (0, 0))
    if scene.place != "center":
        room = max(room, 9)
    loose = max(1, room // 3)
    cx = SIZE // 2 + dx * room + rng.integer(-loose, loose)
    cy = SIZE // 2 + dy * room + rng.integer(-loose, loose)
    # Inverse map in 16.16 fixed point: image pixel -> sprite pixel.
    a, b = cos(scene.tilt) * 100 // percent, sin(scene.tilt) * 100 // percent
    u = ((a * (x - cx) + b * (y - cy)) >> 16) * (-1 if scene.flip else 1) + SIZE // 2
    v = ((a * (y - cy) - b * (x - cx)) >> 16) + SIZE // 2
    inside = (u >= 0) & (u < SIZE) & (v >= 0) & (v < SIZE)
    drawing = sprite(scene.noun, rng.integer(0, VARIANTS - 1))
    labels = np.where(inside, drawing[v.clip(0, SIZE - 1), u.clip(0, SIZE - 1)], 0)
    return labels, u, v


def _outline(labels: np.ndarray) -> np.ndarray:
    """The mask of the edges between parts, two rendered pixels wide."""
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:-1] |= edge[1:]
    edge[:, :-1] |= edge[:, 1:]
    return edge


def _box3(image: np.ndarray) -> np.ndarray:
    """The mean of each pixel and its eight neighbours; border pixels are repeated."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.int32)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) // 9


def render(scene: Scene) -> np.ndarray:
    """Render a scene; the result is the same on every machine.

    Returns:
        (RESOLUTION, RESOLUTION, 3) uint8.
    """
    rng = SeededRandom("draw", scene.seed)
    labels, u, v = _labels(scene, rng)
    if scene.style == "sketch":
        image: np.ndarray = np.full((SIZE, SIZE, 3), 236, np.int16)
        image[labels == 3] = 120
        image[_outline(labels)] = 40
    else:
        image = _background(scene, rng)
        tint = rng.integer(-18, 18)
        main, accent = (np.array(COLOURS[c], np.int16) + tint for c in (scene.colour, scene.accent))
        palette = np.stack([main, main, accent, np.array((28, 28, 32)), np.array((244, 244, 240))]).astype(np.int16)
        image = np.where((labels > 0)[:, :, None], palette[labels], image)
        if scene.texture != "plain":
            second = (labels == 1) & _pattern(scene.texture, u + 4096, v + 4096, 8)
            shade = 70 if int(main.sum()) < 420 else -80
            image[second] += np.int16(shade)
        for _ in range(scene.clutter):
            size = rng.integer(5, 14)
            left, top = rng.integer(-4, SIZE - 6), rng.integer(-4, SIZE - 6)
            image[max(0, top) : top + size, max(0, left) : left + size] = COLOURS[rng.choice(tuple(COLOURS))]
    # Average 2 x 2 rendered pixels.
    image = image.clip(0, 255).astype(np.int32)
    image = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2] + 2) // 4
    return _styled(image, scene.style, rng).clip(0, 255).astype(np.uint8)


def _styled(image: np.ndarray, style: str, rng: SeededRandom) -> np.ndarray:
    """Apply a style to an image (H, W, 3) int32."""
    if style == "blurry":
        return _box3(_box3(_box3(image)))
    if style == "dark":
        return image * rng.integer(25, 45) // 100
    if style == "bright":
        return image * rng.integer(60, 75) // 100 + 96
    if style == "noisy":
        grain = rng.bytes(image.size).astype(np.int32).reshape(image.shape) - 128
        return image + grain * rng.integer(25, 60) // 100
    if style == "gray":
        gray = (image[..., :1] * 77 + image[..., 1:2] * 150 + image[..., 2:] * 29) // 256
        return gray.repeat(3, 2)
    if style == "pixelated":
        side = RESOLUTION // 3
        return image.reshape(side, 3, side, 3, 3).sum((1, 3)).__floordiv__(9).repeat(3, 0).repeat(3, 1)
    if style == "foggy":
        return image * 35 // 100 + 135
    return image
