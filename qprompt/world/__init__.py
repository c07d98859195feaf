"""A small world of generated images with captions; the embedded CLIP was trained on it."""

from .captions import caption, phrases
from .nouns import NOUNS, Noun
from .scene import BACKGROUNDS, COLOURS, RESOLUTION, STYLES, TEXTURES, Scene, random_scene, render
from .seeded_random import SeededRandom

__all__ = [
    "COLOURS",
    "BACKGROUNDS",
    "NOUNS",
    "RESOLUTION",
    "STYLES",
    "TEXTURES",
    "SeededRandom",
    "Noun",
    "Scene",
    "caption",
    "render",
    "phrases",
    "random_scene",
]
