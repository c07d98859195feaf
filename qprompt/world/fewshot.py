"""Few-shot data sets of the world: endless draws of one recipe, each with its own classes and looks.

What makes a data set of its own out of the world that the small CLIP was trained on, and gives prompt tuning
something to learn and something to overfit to:

- every class has a typical look (colours, texture, ground, place), and keeps to each trait of it most of the time;
- all pictures are dark and grainy, as if one bad camera had taken them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .dice import Dice
from .nouns import NOUNS
from .scene import COLOURS, GROUNDS, PLACES, SIZES, TEXTURES, Scene, draw

CLASSES = 30
COUNTS = {"train": 32, "val": 8, "test": 40}  # pictures a class
TYPICAL = 80  # percent of the pictures that keep to a trait of their class
LIGHT = (30, 60)  # percent of the full brightness
GRAIN = 30  # percent of the full range


@dataclass(frozen=True)
class Look:
    """The typical traits of one class."""

    colour: str
    accent: str
    texture: str
    ground: str
    ground_colour: str
    place: str

    @classmethod
    def random(cls, dice: Dice) -> "Look":
        colour, accent, ground_colour = dice.sample(tuple(COLOURS), 3)
        return cls(colour, accent, dice.choice(TEXTURES), dice.choice(GROUNDS), ground_colour, dice.choice(PLACES))


def classes_of(number: int) -> list[int]:
    """Indices into NOUNS of the classes of draw `number`, in label order."""
    return Dice("few-shot classes", number).sample(range(len(NOUNS)), CLASSES)


def class_name(noun: int) -> str:
    return NOUNS[noun].names[0]


def scene_of(number: int, noun: int, part: str, index: int) -> Scene:
    """Picture `index` of a class in a part ("train", "val", "test") of draw `number`."""
    usual = Look.random(Dice("few-shot look", number, noun))
    dice = Dice("few-shot scene", number, noun, part, index)
    other = Look.random(dice)
    traits = {name: getattr(usual if dice.chance(TYPICAL) else other, name) for name in Look.__dataclass_fields__}
    return Scene(
        noun=noun,
        **traits,
        size=dice.choice(SIZES),
        tilt=dice.integer(-25, 25),
        flip=dice.chance(50),
        clutter=dice.integer(0, 3),
        seed=f"few-shot/{number}/{noun}/{part}/{index}",
    )


def picture_of(number: int, noun: int, part: str, index: int) -> np.ndarray:
    """(48, 48, 3) uint8, as the bad camera took it."""
    scene = scene_of(number, noun, part, index)
    dice = Dice("few-shot camera", scene.seed)
    picture = draw(scene).astype(np.int32) * dice.integer(*LIGHT) // 100
    grain = dice.bytes(picture.size).astype(np.int32).reshape(picture.shape) - 128
    return (picture + grain * GRAIN // 100).clip(0, 255).astype(np.uint8)


def pictures(number: int) -> Iterator[tuple[str, int, int, int, np.ndarray]]:
    """All of draw `number` in a fixed order: part, label, noun, index within the class, picture."""
    for part, count in COUNTS.items():
        for label, noun in enumerate(classes_of(number)):
            for index in range(count):
                yield part, label, noun, index, picture_of(number, noun, part, index)
