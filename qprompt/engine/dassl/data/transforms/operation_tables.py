"""The operations of RandAugment and FixMatch by name, and the lists of those that each draws from."""

# ruff: noqa: NPY002 (set_random_seed seeds numpy's global generator)

import random

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps


def _signed(v):
    return -v if random.random() > 0.5 else v


def _affine(img, coefficients):
    return img.transform(img.size, Image.Transform.AFFINE, coefficients)


def _solarize_add(img, addition, threshold=128):
    """Return the image brightened by `addition`, then solarized."""
    brighter = np.clip(np.asarray(img).astype(int) + addition, 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(brighter), threshold)


def _cutout(img, side):
    """Return the image with a brownish square at a random center."""
    if side < 0:
        return img
    width, height = img.size
    x, y = np.random.uniform(width), np.random.uniform(height)
    left, top = int(max(0, x - side / 2)), int(max(0, y - side / 2))
    img = img.copy()
    box = (left, top, min(width, left + side), min(height, top + side))
    ImageDraw.Draw(img).rectangle(box, (125, 123, 114))
    return img


# operation -> function of an image and a strength
OPERATIONS = {
    "AutoContrast": lambda img, v: ImageOps.autocontrast(img),
    "Brightness": lambda img, v: ImageEnhance.Brightness(img).enhance(v),
    "Color": lambda img, v: ImageEnhance.Color(img).enhance(v),
    "Contrast": lambda img, v: ImageEnhance.Contrast(img).enhance(v),
    "CutoutAbs": _cutout,  # side in pixels
    "Equalize": lambda img, v: ImageOps.equalize(img),
    "Identity": lambda img, v: img,
    "Invert": lambda img, v: ImageOps.invert(img),
    "Posterize": lambda img, v: ImageOps.posterize(img, int(v)),
    "Rotate": lambda img, v: img.rotate(_signed(v)),
    "Sharpness": lambda img, v: ImageEnhance.Sharpness(img).enhance(v),
    "ShearX": lambda img, v: _affine(img, (1, _signed(v), 0, 0, 1, 0)),
    "ShearY": lambda img, v: _affine(img, (1, 0, 0, _signed(v), 1, 0)),
    "Solarize": lambda img, v: ImageOps.solarize(img, v),
    "SolarizeAdd": lambda img, v: _solarize_add(img, v),
    "TranslateX": lambda img, v: _affine(img, (1, 0, _signed(v) * img.size[0], 0, 1, 0)),  # share of the width
    "TranslateY": lambda img, v: _affine(img, (1, 0, 0, 0, 1, _signed(v) * img.size[1])),
    "TranslateXabs": lambda img, v: _affine(img, (1, 0, _signed(v), 0, 1, 0)),  # pixels
    "TranslateYabs": lambda img, v: _affine(img, (1, 0, 0, 0, 1, _signed(v))),
}

# (operation, smallest strength, largest strength)
RANDAUGMENT = [
    ("AutoContrast", 0, 1),
    ("Equalize", 0, 1),
    ("Invert", 0, 1),
    ("Rotate", 0, 30),
    ("Posterize", 4, 8),
    ("Solarize", 0, 256),
    ("SolarizeAdd", 0, 110),
    ("Color", 0.1, 1.9),
    ("Contrast", 0.1, 1.9),
    ("Brightness", 0.1, 1.9),
    ("Sharpness", 0.1, 1.9),
    ("ShearX", 0.0, 0.3),
    ("ShearY", 0.0, 0.3),
    ("CutoutAbs", 0, 40),
    ("TranslateXabs", 0.0, 100),
    ("TranslateYabs", 0.0, 100),
]
RANDAUGMENT2 = [
    ("AutoContrast", 0, 1),
    ("Brightness", 0.1, 1.9),
    ("Color", 0.1, 1.9),
    ("Contrast", 0.1, 1.9),
    ("Equalize", 0, 1),
    ("Identity", 0, 1),
    ("Invert", 0, 1),
    ("Posterize", 4, 8),
    ("Rotate", -30, 30),
    ("Sharpness", 0.1, 1.9),
    ("ShearX", -0.3, 0.3),
    ("ShearY", -0.3, 0.3),
    ("Solarize", 0, 256),
    ("TranslateX", -0.3, 0.3),
    ("TranslateY", -0.3, 0.3),
]
FIXMATCH = [
    ("AutoContrast", 0, 1),
    ("Brightness", 0.05, 0.95),
    ("Color", 0.05, 0.95),
    ("Contrast", 0.05, 0.95),
    ("Equalize", 0, 1),
    ("Identity", 0, 1),
    ("Posterize", 4, 8),
    ("Rotate", -30, 30),
    ("Sharpness", 0.05, 0.95),
    ("ShearX", -0.3, 0.3),
    ("ShearY", -0.3, 0.3),
    ("Solarize", 0, 256),
    ("TranslateX", -0.3, 0.3),
    ("TranslateY", -0.3, 0.3),
]
