"""Sentences about a scene, in the manner of the captions that CLIP was trained on: true, partial, varied."""

from .dice import Dice
from .nouns import NOUNS
from .scene import COLOURS, Scene

# openings that say how the picture looks; a plain photo has many, as any caption may leave the style out
_OPENINGS = {
    "photo": (
        "a photo of",
        "a photo of",
        "a picture of",
        "a good photo of",
        "a clear photo of",
        "an image of",
        "a clean photo of",
    ),
    "sketch": ("a sketch of", "a drawing of", "a line drawing of", "a rendition of"),
    "blurry": ("a blurry photo of", "a blurred picture of", "a bad photo of"),
    "dark": ("a dark photo of", "a dark picture of"),
    "bright": ("a bright photo of", "an overexposed picture of"),
    "noisy": ("a noisy photo of", "a grainy picture of", "a jpeg corrupted photo of"),
    "gray": ("a black and white photo of", "a gray picture of"),
    "pixelated": ("a pixelated photo of", "a low resolution photo of"),
    "foggy": ("a foggy photo of", "a hazy picture of"),
}
_PLAIN = (
    "a photo of a {}.", "a photo of a {}.", "a photo of the {}.", "a picture of a {}.", "a {}.", "{}",
    "there is a {} here.", "this is a {}.", "itap of a {}.", "a photo of one {}.", "a photo of my {}.", "the {}.",
    "an image of the {}.", "a photo of {}.", "a photo of a {}, a type of <kind>.", "a <kind>, a {}.", "look at the {}.",
    "a nice {}.",
)  # fmt: skip
_GROUNDS = {
    "plain": ("on a <colour> background", "on <colour>", "in front of a <colour> wall"),
    "grass": ("on the grass", "on a meadow"),
    "sand": ("on the sand", "at the beach"),
    "sky": ("in the sky", "in the air"),
    "water": ("in the water", "in the sea"),
    "night": ("at night", "under the stars"),
    "snow": ("in the snow",),
    "brick": ("in front of a brick wall", "before bricks"),
    "wood": ("on a wooden table", "on wood"),
    "cloth": ("on a checkered <colour> cloth",),
}
_PLACES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
_SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_TEXTURES = {"striped": "striped", "dotted": "dotted", "checkered": "checkered"}


def caption(scene: Scene, dice: Dice, plain: int = 30) -> str:
    """One sentence. `plain` percent of them name the thing alone, the others also some of what surrounds it."""
    noun = NOUNS[scene.noun]
    name = noun.names[0] if len(noun.names) == 1 or dice.chance(65) else dice.choice(noun.names[1:])
    if dice.chance(plain):
        return dice.choice(_PLAIN).replace("<kind>", noun.kind).format(name)

    colourless = scene.style in ("sketch", "gray")
    words = []
    if scene.size in _SIZES and dice.chance(35):
        words.append(dice.choice(_SIZES[scene.size]))
    if scene.texture in _TEXTURES and scene.style != "sketch" and dice.chance(60):
        words.append(_TEXTURES[scene.texture])
    if not colourless and dice.chance(60):
        words.append(scene.colour)
    words.append(name)
    tail = []
    if scene.style != "sketch" and dice.chance(50):
        place = dice.choice(_GROUNDS[scene.ground])
        if not (colourless and "<colour>" in place):
            tail.append(place.replace("<colour>", scene.ground_colour))
    if scene.place in _PLACES and dice.chance(40):
        tail.append(_PLACES[scene.place])
    # a named style is nearly always told, so that the words of a prompt's opening mean something
    style = scene.style if dice.chance(85) else "photo"
    article = dice.choice(("a", "a", "the"))
    if article == "a" and words[0][0] in "aeiou":
        article = "an"
    thing = " ".join([article, *words, *tail])
    if style == "photo" and dice.chance(25):
        return thing
    if scene.size == "large" and style == "photo" and dice.chance(30):
        return f"a close-up photo of {thing}."
    return f"{dice.choice(_OPENINGS[style])} {thing}."


def phrases() -> list[str]:
    """Every piece of text that a caption is put together from: their tokens are all that pre-training sees."""
    pieces = [name for noun in NOUNS for name in (*noun.names, noun.kind)]
    pieces += [text for table in (_OPENINGS, _GROUNDS, _SIZES) for texts in table.values() for text in texts]
    pieces += [*_PLAIN, *_PLACES.values(), *_TEXTURES.values(), *COLOURS, "an", "a close-up photo of"]
    # the slots are filled from the other pieces
    return [text.replace("{}", "").replace("<kind>", "").replace("<colour>", "") for text in pieces]
