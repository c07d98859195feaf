"""Captions of scenes, similar to those that CLIP was trained on: true, incomplete and varied."""

from .nouns import NOUNS
from .scene import COLOURS, Scene
from .seeded_random import SeededRandom

# Openings that name the style; a plain photo has several, since a caption may omit the style.
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
_BACKGROUNDS = {
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


def caption(scene: Scene, rng: SeededRandom, plain: int = 30) -> str:
    """Return a random caption of a scene.

    Args:
        scene: The scene.
        rng: The source of random choices.
        plain: The percentage of captions that name only the object.
    """
    noun = NOUNS[scene.noun]
    name = noun.names[0] if len(noun.names) == 1 or rng.chance(65) else rng.choice(noun.names[1:])
    if rng.chance(plain):
        return rng.choice(_PLAIN).replace("<kind>", noun.kind).format(name)

    colourless = scene.style in ("sketch", "gray")
    words = []
    if scene.size in _SIZES and rng.chance(35):
        words.append(rng.choice(_SIZES[scene.size]))
    if scene.texture in _TEXTURES and scene.style != "sketch" and rng.chance(60):
        words.append(_TEXTURES[scene.texture])
    if not colourless and rng.chance(60):
        words.append(scene.colour)
    words.append(name)
    tail = []
    if scene.style != "sketch" and rng.chance(50):
        place = rng.choice(_BACKGROUNDS[scene.background])
        if not (colourless and "<colour>" in place):
            tail.append(place.replace("<colour>", scene.background_colour))
    if scene.place in _PLACES and rng.chance(40):
        tail.append(_PLACES[scene.place])
    # The style is usually named, so that the words in front of the class name get a meaning.
    style = scene.style if rng.chance(85) else "photo"
    article = rng.choice(("a", "a", "the"))
    if article == "a" and words[0][0] in "aeiou":
        article = "an"
    text = " ".join([article, *words, *tail])
    if style == "photo" and rng.chance(25):
        return text
    if scene.size == "large" and style == "photo" and rng.chance(30):
        return f"a close-up photo of {text}."
    return f"{rng.choice(_OPENINGS[style])} {text}."


def phrases() -> list[str]:
    """Return all parts of captions; their tokens are the only ones in pre-training."""
    pieces = [name for noun in NOUNS for name in (*noun.names, noun.kind)]
    pieces += [text for table in (_OPENINGS, _BACKGROUNDS, _SIZES) for texts in table.values() for text in texts]
    pieces += [*_PLAIN, *_PLACES.values(), *_TEXTURES.values(), *COLOURS, "an", "a close-up photo of"]
    # The slots are filled with the other pieces.
    return [text.replace("{}", "").replace("<kind>", "").replace("<colour>", "") for text in pieces]
