"""The generated world: reproducible images, true captions, visible traits."""

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qprompt import world
from qprompt.world import (
    BACKGROUNDS,
    COLOURS,
    NOUNS,
    STYLES,
    TEXTURES,
    Scene,
    SeededRandom,
    caption,
    fewshot,
    random_scene,
    render,
)
from qprompt.world.sprites import VARIANTS, fill_polygon, sprite


def test_random_choices_never_change():
    rng = SeededRandom("test", 1)
    assert [rng.integer(0, 999) for _ in range(5)] == [517, 449, 716, 171, 814]
    assert SeededRandom("test", 1).bytes(6).tolist() == [117, 183, 153, 99, 75, 24]
    assert SeededRandom("test", 2).sample("abcdef", 3) == ["e", "b", "f"]


@given(st.integers(-50, 50), st.integers(0, 100), st.text(max_size=5))
def test_random_choices_stay_in_range(low, width, key):
    rng = SeededRandom(key)
    assert all(low <= rng.integer(low, low + width) <= low + width for _ in range(20))
    drawn = rng.sample(range(width + 1), width + 1)
    assert sorted(drawn) == list(range(width + 1))


@given(st.lists(st.tuples(st.integers(-500, 4500), st.integers(-500, 4500)), min_size=3, max_size=7))
@settings(max_examples=40)
def test_polygon_fill_is_the_even_odd_rule(points):
    canvas = np.zeros((16, 16), np.uint8)
    fill_polygon(canvas, points, 1)
    for row in range(16):
        for column in range(16):
            x, y = column * 256 + 128, row * 256 + 128
            inside = False
            for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
                if (y0 > y) != (y1 > y):
                    low, high = ((x0, y0), (x1, y1)) if y0 < y1 else ((x1, y1), (x0, y0))
                    inside ^= (x - low[0]) * (high[1] - low[1]) < (y - low[1]) * (high[0] - low[0])
            assert canvas[row, column] == inside


def test_nouns_have_different_names_and_drawings():
    names = [name for noun in NOUNS for name in noun.names]
    assert len(set(names)) == len(names) and len(NOUNS) >= 60
    drawings = {sprite(i, 0).tobytes() for i in range(len(NOUNS))}
    assert len(drawings) == len(NOUNS)
    for i in range(len(NOUNS)):
        assert (sprite(i, 0) > 0).mean() > 0.08, NOUNS[i].names
    assert (sprite(0, 0) != sprite(0, VARIANTS - 1)).any()


def test_images_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for i in range(60):
        digest.update(render(random_scene(SeededRandom("fixed", i))).tobytes())
    assert digest.hexdigest() == "94710a991cd74718f841968077c090ed0cc645dbafe77eb2e8c1f24d71e16e36"


@pytest.mark.parametrize(
    "trait",
    [*(("style", s) for s in STYLES), *(("background", g) for g in BACKGROUNDS), *(("texture", t) for t in TEXTURES)],
)
def test_every_trait_is_visible(trait):
    base = {"noun": 3, "colour": "red", "accent": "blue", "background_colour": "yellow", "size": "large", "seed": "x"}
    image = render(Scene(**base, **dict([trait])))
    assert image.shape == (48, 48, 3) and image.dtype == np.uint8
    plain = render(Scene(**base))
    assert (trait[1] in ("photo", "plain")) == np.array_equal(image, plain)


def test_captions_are_true_and_use_known_words():
    known = set(re.findall(r"[a-z]+", " ".join(world.phrases())))
    for i in range(500):
        rng = SeededRandom("captions", i)
        scene = random_scene(rng)
        text = caption(scene, rng)
        words = set(re.findall(r"[a-z]+", text))
        assert words <= known, text
        assert any(name in text for name in NOUNS[scene.noun].names), text
        colours = words & set(COLOURS) - {"black", "white", "gray"}  # "black and white photo" does not name a colour
        assert colours <= {scene.colour, scene.background_colour}, text


def test_draws_differ_and_are_reproducible():
    assert fewshot.classes_of(0) == fewshot.classes_of(0) != fewshot.classes_of(1)
    assert len(set(fewshot.classes_of(0))) == fewshot.CLASSES
    noun = fewshot.classes_of(0)[0]
    first = fewshot.render_image(0, noun, "train", 0)
    assert np.array_equal(first, fewshot.render_image(0, noun, "train", 0))
    others = [(0, noun, "train", 1), (0, noun, "test", 0), (1, noun, "train", 0)]
    assert all(not np.array_equal(first, fewshot.render_image(*other)) for other in others)


def test_most_images_show_the_traits_of_their_class():
    noun = fewshot.classes_of(0)[0]
    scenes = [fewshot.scene_of(0, noun, "train", i) for i in range(100)]
    most = max(sum(s.background_colour == c for s in scenes) for c in COLOURS)
    assert 60 < most < 100
