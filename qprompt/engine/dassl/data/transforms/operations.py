"""RandAugment's operations as functions of an image and a strength, under Dassl's names."""

# ruff: noqa: N802, NPY002 (Dassl's names; set_random_seed seeds numpy's global generator)

import numpy as np
import torch
from PIL import Image, ImageOps

from .operation_tables import FIXMATCH, OPERATIONS, RANDAUGMENT, RANDAUGMENT2, _cutout, _solarize_add


def _operation(name):
    def apply(img, v=None):
        return OPERATIONS[name](img, v)

    apply.__name__ = apply.__qualname__ = name
    return apply


def Flip(img, _=None):
    """Return the image mirrored."""
    return ImageOps.mirror(img)


def SolarizeAdd(img, addition=0, threshold=128):
    """Return the image brightened by `addition`, then solarized."""
    return _solarize_add(img, addition, threshold)


def Cutout(img, v):
    """Return the image with a square at a random center; `v` is its side as a share of the width, at most 0.2."""
    return img if v <= 0 else _cutout(img, v * img.size[0])


def SamplePairing(imgs):
    """Return a function that blends an image with a random one of the array `imgs`."""

    def blend(img, v):
        other = Image.fromarray(imgs[np.random.choice(len(imgs))])
        return Image.blend(img, other, v)

    return blend


class Lighting:
    """Add noise along the principal components of colours (AlexNet's) to a tensor (3, H, W)."""

    def __init__(self, alphastd, eigval, eigvec):
        self.alphastd, self.eigval, self.eigvec = alphastd, torch.as_tensor(eigval), torch.as_tensor(eigvec)

    def __call__(self, img):
        if self.alphastd == 0:
            return img
        alpha = img.new_empty(3).normal_(0, self.alphastd)
        shift = self.eigvec.to(img) @ (alpha * self.eigval.to(img))
        return img + shift.view(3, 1, 1)


class CutoutDefault:
    """Set a square of side `length` at a random center of a tensor (3, H, W) to 0 (arXiv 1708.04552)."""

    def __init__(self, length):
        self.length = length

    def __call__(self, img):
        height, width = img.shape[1:]
        y, x, half = np.random.randint(height), np.random.randint(width), self.length // 2
        img[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0.0
        return img


NAMED = {name: _operation(name) for name in OPERATIONS if name != "SolarizeAdd"}
NAMED |= {"Flip": Flip, "SolarizeAdd": SolarizeAdd, "Cutout": Cutout, "SamplePairing": SamplePairing}
NAMED |= {"Lighting": Lighting, "CutoutDefault": CutoutDefault}


def _listed(table):
    return [(NAMED[name], weakest, strongest) for name, weakest, strongest in table]


def randaugment_list():
    """Return (operation, smallest strength, largest) of RandAugment."""
    return _listed(RANDAUGMENT)


def randaugment_list2():
    """Return (operation, smallest strength, largest) of the variant with random strength."""
    return _listed(RANDAUGMENT2)


def fixmatch_list():
    """Return (operation, smallest strength, largest) of FixMatch's."""
    return _listed(FIXMATCH)


NAMED |= {function.__name__: function for function in (randaugment_list, randaugment_list2, fixmatch_list)}
