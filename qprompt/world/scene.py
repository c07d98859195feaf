"""Scenes (what is to be seen, in words and numbers) and their pictures, in integer arithmetic."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from .dice import Dice
from .nouns import NOUNS
from .sprites import SIZE, VARIANTS, cos, sin, sprite

RESOLUTION = 48  # pixels of a picture's side; drawn at twice that and averaged

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
# a ground is a place with its own colours, or "plain" in a colour of its own
GROUNDS = ("plain", "grass", "sand", "sky", "water", "night", "snow", "brick", "wood", "cloth")
STYLES = ("photo", "sketch", "blurry", "dark", "bright", "noisy", "gray", "pixelated", "foggy")
PLACES = ("center", "left", "right", "top", "bottom")
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows. `seed` decides what has no name: exact position, tilt, grain."""

    noun: int  # index into NOUNS
    colour: str
    accent: str
    texture: str = "plain"
    ground: str = "plain"
    ground_colour: str = "white"
    style: str = "photo"
    place: str = "center"
    size: str = "medium"
    tilt: int = 0  # degrees
    flip: bool = False
    clutter: int = 0  # number of odd bits lying around
    seed: str = ""


def random_scene(dice: Dice, busy: int = 100) -> Scene:
    """A scene of the world that the small CLIP is trained on.

    `busy` (0 to 100) scales how often a picture is styled, tilted, cluttered or off the usual: training
    begins with easier pictures.
    """
    colour = dice.choice(tuple(COLOURS))
    accent = dice.choice([c for c in COLOURS if c != colour])
    ground = dice.choice(GROUNDS) if dice.chance(55) else "plain"
    return Scene(
        noun=dice.integer(0, len(NOUNS) - 1),
        colour=colour,
        accent=accent,
        texture=dice.choice(TEXTURES[1:]) if dice.chance(30 * busy // 100) else "plain",
        ground=ground,
        ground_colour=dice.choice([c for c in COLOURS if c != colour]),
        style=dice.choice(STYLES[1:]) if dice.chance(45 * busy // 100) else "photo",
        place=dice.choice(PLACES[1:]) if dice.chance(20 + 25 * busy // 100) else "center",
        size=dice.choice(SIZES),
        tilt=dice.integer(-20, 20) if dice.chance(80) else dice.integer(-60, 60) * busy // 100,
        flip=dice.chance(50),
        clutter=dice.integer(1, 5) if dice.chance(40 * busy // 100) else 0,
        seed=str(dice.integer(0, 2**40)),
    )


@cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """(SIZE, SIZE) int32 x and y of each fine pixel."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.int32)
    return x, y


def _pattern(texture: str, x: np.ndarray, y: np.ndarray, period: int) -> np.ndarray:
    """Boolean mask of a texture's second shade."""
    if texture == "striped":
        return (x + y) % (2 * period) < period
    if texture == "dotted":
        return (x % (2 * period) - period) ** 2 + (y % (2 * period) - period) ** 2 < (period * 7 // 10) ** 2
    if texture == "checkered":
        return ((x // period) + (y // period)) % 2 == 0
    return np.zeros_like(x, bool)


def _ground(scene: Scene, dice: Dice) -> np.ndarray:
    """(SIZE, SIZE, 3) int16 background."""
    x, y = _grid()
    base = {
        "grass": (80, 158, 62), "sand": (216, 190, 136), "sky": (130, 186, 236), "water": (40, 104, 160),
        "night": (20, 22, 58), "snow": (226, 232, 240), "brick": (166, 82, 62), "wood": (158, 112, 66),
    }.get(scene.ground, COLOURS[scene.ground_colour])  # fmt: skip
    picture = np.empty((SIZE, SIZE, 3), np.int16)
    picture[:] = np.array(base, np.int16) + dice.integer(-14, 14)
    shift = dice.integer(0, 47)
    if scene.ground in ("grass", "sand", "snow"):
        # coarse speckles of 2 x 2 fine pixels: grass strong, sand weaker, snow weakest
        grain = dice.bytes(SIZE * SIZE // 4).astype(np.int16).reshape(SIZE // 2, SIZE // 2) - 128
        strength = {"grass": 4, "sand": 8, "snow": 14}[scene.ground]
        picture += (grain // strength).repeat(2, 0).repeat(2, 1)[:, :, None]
    elif scene.ground == "sky":
        picture += (y // 3 - 10).astype(np.int16)[:, :, None]
    elif scene.ground == "water":
        wave = ((np.abs((x + shift) % 24 - 12) + y * 2) % 20 < 5).astype(np.int16)
        picture += (wave * 50)[:, :, None]
    elif scene.ground == "night":
        for _ in range(dice.integer(8, 16)):
            u, v = dice.integer(0, SIZE - 3), dice.integer(0, SIZE - 3)
            picture[v : v + 3, u : u + 3] = (230, 230, 190)
    elif scene.ground == "brick":
        row = (y + shift) // 12
        mortar = ((y + shift) % 12 < 2) | ((x + row % 2 * 12 + shift) % 24 < 2)
        picture[mortar] = (206, 198, 186)
    elif scene.ground == "wood":
        picture += ((((y + shift) // 16) * 37 % 5 - 2) * 9).astype(np.int16)[:, :, None]
        picture[(y + shift) % 16 < 2] = (92, 60, 32)
    elif scene.ground == "cloth":
        picture[_pattern("checkered", x + shift, y + shift, 12)] = (238, 236, 228)
    return picture


def _labels(scene: Scene, dice: Dice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(SIZE, SIZE) part labels of the object in the picture, and each pixel's sprite coordinates (u, v)."""
    x, y = _grid()
    percent = {"small": 56, "medium": 74, "large": 92}[scene.size] + dice.integer(-6, 6)
    room = max(0, (100 - percent) * SIZE // 200)  # how far the middle may move and stay inside
    dx, dy = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}.get(scene.place, (0, 0))
    if scene.place != "center":
        room = max(room, 9)
    loose = max(1, room // 3)
    cx = SIZE // 2 + dx * room + dice.integer(-loose, loose)
    cy = SIZE // 2 + dy * room + dice.integer(-loose, loose)
    # inverse map, 16.16: picture pixel -> sprite pixel
    a, b = cos(scene.tilt) * 100 // percent, sin(scene.tilt) * 100 // percent
    u = ((a * (x - cx) + b * (y - cy)) >> 16) * (-1 if scene.flip else 1) + SIZE // 2
    v = ((a * (y - cy) - b * (x - cx)) >> 16) + SIZE // 2
    inside = (u >= 0) & (u < SIZE) & (v >= 0) & (v < SIZE)
    drawing = sprite(scene.noun, dice.integer(0, VARIANTS - 1))
    labels = np.where(inside, drawing[v.clip(0, SIZE - 1), u.clip(0, SIZE - 1)], 0)
    return labels, u, v


def _outline(labels: np.ndarray) -> np.ndarray:
    """Pixels where a part ends, two fine pixels wide."""
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:-1] |= edge[1:]
    edge[:, :-1] |= edge[:, 1:]
    return edge


def _box3(picture: np.ndarray) -> np.ndarray:
    """Mean of each pixel and its eight neighbours (edges repeated)."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.int32)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) // 9


def draw(scene: Scene) -> np.ndarray:
    """(RESOLUTION, RESOLUTION, 3) uint8 picture of a scene, the same on every machine."""
    dice = Dice("draw", scene.seed)
    labels, u, v = _labels(scene, dice)
    if scene.style == "sketch":
        picture: np.ndarray = np.full((SIZE, SIZE, 3), 236, np.int16)
        picture[labels == 3] = 120
        picture[_outline(labels)] = 40
    else:
        picture = _ground(scene, dice)
        tint = dice.integer(-18, 18)
        main, accent = (np.array(COLOURS[c], np.int16) + tint for c in (scene.colour, scene.accent))
        palette = np.stack([main, main, accent, np.array((28, 28, 32)), np.array((244, 244, 240))]).astype(np.int16)
        picture = np.where((labels > 0)[:, :, None], palette[labels], picture)
        if scene.texture != "plain":
            second = (labels == 1) & _pattern(scene.texture, u + 4096, v + 4096, 8)
            shade = 70 if int(main.sum()) < 420 else -80
            picture[second] += np.int16(shade)
        for _ in range(scene.clutter):
            size = dice.integer(5, 14)
            left, top = dice.integer(-4, SIZE - 6), dice.integer(-4, SIZE - 6)
            picture[max(0, top) : top + size, max(0, left) : left + size] = COLOURS[dice.choice(tuple(COLOURS))]
    # box filter from the fine grid to the picture's
    picture = picture.clip(0, 255).astype(np.int32)
    picture = (picture[::2, ::2] + picture[1::2, ::2] + picture[::2, 1::2] + picture[1::2, 1::2] + 2) // 4
    return _styled(picture, scene.style, dice).clip(0, 255).astype(np.uint8)


def _styled(picture: np.ndarray, style: str, dice: Dice) -> np.ndarray:
    """The picture (H, W, 3) int32 as a camera of that style would show it."""
    if style == "blurry":
        return _box3(_box3(_box3(picture)))
    if style == "dark":
        return picture * dice.integer(25, 45) // 100
    if style == "bright":
        return picture * dice.integer(60, 75) // 100 + 96
    if style == "noisy":
        grain = dice.bytes(picture.size).astype(np.int32).reshape(picture.shape) - 128
        return picture + grain * dice.integer(25, 60) // 100
    if style == "gray":
        gray = (picture[..., :1] * 77 + picture[..., 1:2] * 150 + picture[..., 2:] * 29) // 256
        return gray.repeat(3, 2)
    if style == "pixelated":
        side = RESOLUTION // 3
        return picture.reshape(side, 3, side, 3, 3).sum((1, 3)).__floordiv__(9).repeat(3, 0).repeat(3, 1)
    if style == "foggy":
        return picture * 35 // 100 + 135
    return picture
