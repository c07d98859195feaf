"""AutoAugment's policies for ImageNet, CIFAR-10 and SVHN (Cubuk et al., CVPR 2019, tables in the appendix).

A policy has 25 sub-policies of two steps. A random sub-policy is applied to an image, each step with its probability.
"""

import random

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

# one sub-policy per line: operation, probability, magnitude (0 to 9)
IMAGENET = """
posterize 0.4 8, rotate 0.6 9
solarize 0.6 5, autocontrast 0.6 5
equalize 0.8 8, equalize 0.6 3
posterize 0.6 7, posterize 0.6 6
equalize 0.4 7, solarize 0.2 4
equalize 0.4 4, rotate 0.8 8
solarize 0.6 3, equalize 0.6 7
posterize 0.8 5, equalize 1.0 2
rotate 0.2 3, solarize 0.6 8
equalize 0.6 8, posterize 0.4 6
rotate 0.8 8, color 0.4 0
rotate 0.4 9, equalize 0.6 2
equalize 0.0 7, equalize 0.8 8
invert 0.6 4, equalize 1.0 8
color 0.6 4, contrast 1.0 8
rotate 0.8 8, color 1.0 2
color 0.8 8, solarize 0.8 7
sharpness 0.4 7, invert 0.6 8
shearX 0.6 5, equalize 1.0 9
color 0.4 0, equalize 0.6 3
equalize 0.4 7, solarize 0.2 4
solarize 0.6 5, autocontrast 0.6 5
invert 0.6 4, equalize 1.0 8
color 0.6 4, contrast 1.0 8
equalize 0.8 8, equalize 0.6 3
"""
CIFAR10 = """
invert 0.1 7, contrast 0.2 6
rotate 0.7 2, translateX 0.3 9
sharpness 0.8 1, sharpness 0.9 3
shearY 0.5 8, translateY 0.7 9
autocontrast 0.5 8, equalize 0.9 2
shearY 0.2 7, posterize 0.3 7
color 0.4 3, brightness 0.6 7
sharpness 0.3 9, brightness 0.7 9
equalize 0.6 5, equalize 0.5 1
contrast 0.6 7, sharpness 0.6 5
color 0.7 7, translateX 0.5 8
equalize 0.3 7, autocontrast 0.4 8
translateY 0.4 3, sharpness 0.2 6
brightness 0.9 6, color 0.2 8
solarize 0.5 2, invert 0.0 3
equalize 0.2 0, autocontrast 0.6 0
equalize 0.2 8, equalize 0.6 4
color 0.9 9, equalize 0.6 6
autocontrast 0.8 4, solarize 0.2 8
brightness 0.1 3, color 0.7 0
solarize 0.4 5, autocontrast 0.9 3
translateY 0.9 9, translateY 0.7 9
autocontrast 0.9 2, solarize 0.8 3
equalize 0.8 8, invert 0.1 3
translateY 0.7 9, autocontrast 0.9 1
"""
SVHN = """
shearX 0.9 4, invert 0.2 3
shearY 0.9 8, invert 0.7 5
equalize 0.6 5, solarize 0.6 6
invert 0.9 3, equalize 0.6 3
equalize 0.6 1, rotate 0.9 3
shearX 0.9 4, autocontrast 0.8 3
shearY 0.9 8, invert 0.4 5
shearY 0.9 5, solarize 0.2 6
invert 0.9 6, autocontrast 0.8 1
equalize 0.6 3, rotate 0.9 3
shearX 0.9 4, solarize 0.3 3
shearY 0.8 8, invert 0.7 4
equalize 0.9 5, translateY 0.6 6
invert 0.9 4, equalize 0.6 7
contrast 0.3 3, rotate 0.8 4
invert 0.8 5, translateY 0.0 2
shearY 0.7 6, solarize 0.4 8
invert 0.6 4, rotate 0.8 4
shearY 0.3 7, translateX 0.9 3
shearX 0.1 6, invert 0.6 5
solarize 0.7 2, translateY 0.6 7
shearY 0.8 4, invert 0.8 8
shearX 0.7 9, translateY 0.8 3
shearY 0.8 5, autocontrast 0.7 3
shearX 0.7 2, invert 0.1 5
"""


def _sign():
    return random.choice([-1, 1])


def _affine(img, coefficients, fillcolor, resample=Image.Resampling.NEAREST):
    return img.transform(img.size, Image.Transform.AFFINE, coefficients, resample, fillcolor=fillcolor)


def _rotate(img, degrees, fillcolor):
    """Return the image rotated, with gray corners."""
    rotated = img.convert("RGBA").rotate(degrees)
    gray = Image.new("RGBA", rotated.size, (128, 128, 128, 128))
    return Image.composite(rotated, gray, rotated).convert(img.mode)


def _enhance(kind):
    return lambda img, v, fill: kind(img).enhance(1 + v * _sign())


_BICUBIC = Image.Resampling.BICUBIC
# operation -> (strength by magnitude, function of image, strength and fill color)
OPERATIONS = {
    "shearX": (
        np.linspace(0, 0.3, 10),
        lambda img, v, fill: _affine(img, (1, v * _sign(), 0, 0, 1, 0), fill, _BICUBIC),
    ),
    "shearY": (
        np.linspace(0, 0.3, 10),
        lambda img, v, fill: _affine(img, (1, 0, 0, v * _sign(), 1, 0), fill, _BICUBIC),
    ),
    "translateX": (
        np.linspace(0, 150 / 331, 10),
        lambda img, v, fill: _affine(img, (1, 0, v * img.size[0] * _sign(), 0, 1, 0), fill),
    ),
    "translateY": (
        np.linspace(0, 150 / 331, 10),
        lambda img, v, fill: _affine(img, (1, 0, 0, 0, 1, v * img.size[1] * _sign()), fill),
    ),
    "rotate": (np.linspace(0, 30, 10), _rotate),
    "color": (np.linspace(0, 0.9, 10), _enhance(ImageEnhance.Color)),
    "contrast": (np.linspace(0, 0.9, 10), _enhance(ImageEnhance.Contrast)),
    "sharpness": (np.linspace(0, 0.9, 10), _enhance(ImageEnhance.Sharpness)),
    "brightness": (np.linspace(0, 0.9, 10), _enhance(ImageEnhance.Brightness)),
    "posterize": (np.linspace(8, 4, 10).round().astype(int), lambda img, v, fill: ImageOps.posterize(img, v)),
    "solarize": (np.linspace(256, 0, 10), lambda img, v, fill: ImageOps.solarize(img, v)),
    "autocontrast": (np.zeros(10), lambda img, v, fill: ImageOps.autocontrast(img)),
    "equalize": (np.zeros(10), lambda img, v, fill: ImageOps.equalize(img)),
    "invert": (np.zeros(10), lambda img, v, fill: ImageOps.invert(img)),
}


class SubPolicy:
    """Two operations with their probabilities (0 to 1) and magnitudes (0 to 9)."""

    def __init__(self, p1, operation1, magnitude_idx1, p2, operation2, magnitude_idx2, fillcolor=(128, 128, 128)):
        self.steps = [(p1, operation1, magnitude_idx1), (p2, operation2, magnitude_idx2)]
        self.fillcolor = fillcolor

    def __call__(self, img):
        for p, name, magnitude in self.steps:
            if random.random() < p:
                strengths, operation = OPERATIONS[name]
                img = operation(img, strengths[magnitude].item(), self.fillcolor)
        return img


class _Policy:
    """Applies a random sub-policy."""

    table = ""
    name = ""

    def __init__(self, fillcolor=(128, 128, 128)):
        self.policies = []
        for line in self.table.strip().splitlines():
            (name1, p1, m1), (name2, p2, m2) = (step.split() for step in line.split(","))
            self.policies.append(SubPolicy(float(p1), name1, int(m1), float(p2), name2, int(m2), fillcolor))

    def __call__(self, img):
        return self.policies[random.randint(0, len(self.policies) - 1)](img)

    def __repr__(self):
        return f"AutoAugment {self.name} Policy"


class ImageNetPolicy(_Policy):
    """AutoAugment's policy for ImageNet."""

    table, name = IMAGENET, "ImageNet"


class CIFAR10Policy(_Policy):
    """AutoAugment's policy for CIFAR-10."""

    table, name = CIFAR10, "CIFAR10"


class SVHNPolicy(_Policy):
    """AutoAugment's policy for SVHN."""

    table, name = SVHN, "SVHN"
