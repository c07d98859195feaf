"""The small drawn world behind the embedded default: nouns, scenes, pictures and captions."""

from .captions import caption, phrases
from .dice import Dice
from .nouns import NOUNS, Noun
from .scene import COLOURS, GROUNDS, RESOLUTION, STYLES, TEXTURES, Scene, draw, random_scene

__all__ = [
    "COLOURS",
    "GROUNDS",
    "NOUNS",
    "RESOLUTION",
    "STYLES",
    "TEXTURES",
    "Dice",
    "Noun",
    "Scene",
    "caption",
    "draw",
    "phrases",
    "random_scene",
]
