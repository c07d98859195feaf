"""Few-shot data sets of generated images. Each draw number gives one with other classes and other traits.

They differ from the images that the embedded CLIP was trained on, so that prompt tuning can learn and overfit:

- Every class has typical traits (colours, texture, background, place); most of its images show each of them.
- All images are dark and noisy, as from a bad camera.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .nouns import NOUNS
from .scene import BACKGROUNDS, COLOURS, PLACES, SIZES, TEXTURES, Scene, render
from .seeded_random import SeededRandom

CLASSES = 30
COUNTS = {"train": 32, "val": 8, "test": 40}  # images per class
TYPICAL_PERCENT = 80  # percent of the images that show a trait of their class
BRIGHTNESS = (30, 60)  # percent of the full brightness
NOISE = 30  # percent of the full range


@dataclass(frozen=True)
class Traits:
    """The typical traits of one class."""

    colour: str
    accent: str
    texture: str
    background: str
    background_colour: str
    place: str

    @classmethod
    def random(cls, rng: SeededRandom) -> "Traits":
        """Return random traits."""
        colour, accent, background_colour = rng.sample(tuple(COLOURS), 3)
        return cls(colour, accent, rng.choice(TEXTURES), rng.choice(BACKGROUNDS), background_colour, rng.choice(PLACES))


def classes_of(number: int) -> list[int]:
    """Return the classes of draw `number` in label order, as indices into NOUNS."""
    return SeededRandom("few-shot classes", number).sample(range(len(NOUNS)), CLASSES)


def class_name(noun: int) -> str:
    """Return the class name of ``NOUNS[noun]``."""
    return NOUNS[noun].names[0]


def scene_of(number: int, noun: int, part: str, index: int) -> Scene:
    """Describe one image.

    Args:
        number: The draw.
        noun: The class, an index into NOUNS.
        part: "train", "val" or "test".
        index: The number of the image within the class.
    """
    typical = Traits.random(SeededRandom("few-shot look", number, noun))
    rng = SeededRandom("few-shot scene", number, noun, part, index)
    other = Traits.random(rng)
    traits = {
        name: getattr(typical if rng.chance(TYPICAL_PERCENT) else other, name) for name in Traits.__dataclass_fields__
    }
    return Scene(
        noun=noun,
        **traits,
        size=rng.choice(SIZES),
        tilt=rng.integer(-25, 25),
        flip=rng.chance(50),
        clutter=rng.integer(0, 3),
        seed=f"few-shot/{number}/{noun}/{part}/{index}",
    )


def render_image(number: int, noun: int, part: str, index: int) -> np.ndarray:
    """Render one image, dark and noisy; see `scene_of` for the arguments.

    Returns:
        (RESOLUTION, RESOLUTION, 3) uint8.
    """
    scene = scene_of(number, noun, part, index)
    rng = SeededRandom("few-shot camera", scene.seed)
    image = render(scene).astype(np.int32) * rng.integer(*BRIGHTNESS) // 100
    noise = rng.bytes(image.size).astype(np.int32).reshape(image.shape) - 128
    return (image + noise * NOISE // 100).clip(0, 255).astype(np.uint8)


def images(number: int) -> Iterator[tuple[str, int, int, int, np.ndarray]]:
    """Render all images of draw `number`: part, label, noun, index within the class, image."""
    for part, count in COUNTS.items():
        for label, noun in enumerate(classes_of(number)):
            for index in range(count):
                yield part, label, noun, index, render_image(number, noun, part, index)
