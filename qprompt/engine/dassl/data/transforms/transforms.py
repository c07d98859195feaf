"""``build_transform``: the transforms named in ``cfg.INPUT.TRANSFORMS``, in an order that does not depend on theirs."""

# ruff: noqa: NPY002 (set_random_seed seeds numpy's global generator)

import random

import numpy as np
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as F
from torchvision.transforms.functional import InterpolationMode

from qprompt.errors import UserError, did_you_mean

from .autoaugment import CIFAR10Policy, ImageNetPolicy, SVHNPolicy
from .randaugment import RandAugment, RandAugment2, RandAugmentFixMatch

AVAI_CHOICES = [
    "random_flip",
    "random_resized_crop",
    "normalize",
    "instance_norm",
    "random_crop",
    "random_translation",
    "center_crop",  # always applied in evaluation
    "cutout",
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "randaugment_fixmatch",
    "randaugment2",
    "gaussian_noise",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
]

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}


class Random2DTranslation:
    """With probability `p` resizes to 1.125 times (height, width) and crops randomly; otherwise resizes only."""

    def __init__(self, height, width, p=0.5, interpolation=InterpolationMode.BILINEAR):
        self.height = height
        self.width = width
        self.p = p
        self.interpolation = interpolation

    def __call__(self, img):
        if random.uniform(0, 1) > self.p:
            return F.resize(img, [self.height, self.width], self.interpolation)
        height, width = round(self.height * 1.125), round(self.width * 1.125)
        img = F.resize(img, [height, width], self.interpolation)
        left = round(random.uniform(0, width - self.width))
        top = round(random.uniform(0, height - self.height))
        return F.crop(img, top, left, self.height, self.width)


class InstanceNormalization:
    """Normalizes each channel of an image (C, H, W) to mean 0 and standard deviation 1."""

    def __init__(self, eps=1e-8):
        self.eps = eps

    def __call__(self, img):
        pixels = img.flatten(1)  # (C, H * W)
        mean, std = pixels.mean(1), pixels.std(1)
        return (img - mean[:, None, None]) / (std[:, None, None] + self.eps)


class Cutout:
    """Sets `n_holes` squares with side `length` and random centers to 0, in an image (C, H, W)."""

    def __init__(self, n_holes=1, length=16):
        self.n_holes = n_holes
        self.length = length

    def __call__(self, img):
        _, height, width = img.shape
        mask = torch.ones(height, width)
        half = self.length // 2
        for _ in range(self.n_holes):
            y, x = np.random.randint(height), np.random.randint(width)
            mask[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
        return img * mask


class GaussianNoise:
    """Adds Gaussian noise with the given mean and standard deviation, with probability `p`."""

    def __init__(self, mean=0, std=0.15, p=0.5):
        self.mean = mean
        self.std = std
        self.p = p

    def __call__(self, img):
        if random.uniform(0, 1) > self.p:
            return img
        return img + torch.randn(img.size()) * self.std + self.mean


def build_transform(cfg, is_train=True, choices=None):
    """Return a transform from a PIL image to a tensor (3, H, W), or None with INPUT.NO_TRANSFORM.

    For evaluation it resizes the shorter side to the input size, crops the center and applies normalizations only.

    Args:
        cfg: the config.
        is_train: whether to augment.
        choices: names of transforms; default ``cfg.INPUT.TRANSFORMS``.

    Raises:
        UserError: there is no transform with one of these names.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    choices = cfg.INPUT.TRANSFORMS if choices is None else choices
    for choice in choices:
        if choice not in AVAI_CHOICES:
            raise UserError(
                f"INPUT.TRANSFORMS has an unknown {choice!r}.{did_you_mean(choice, AVAI_CHOICES)} "
                f"Expected names among {', '.join(AVAI_CHOICES)}."
            )
    print(f"Building transform_{'train' if is_train else 'test'}")
    steps = _train_steps(cfg.INPUT, choices) if is_train else _test_steps(cfg.INPUT, choices)
    transforms = []
    for line, transform in steps:
        print(f"+ {line}")
        transforms.append(transform)
    return T.Compose(transforms)


def _build_transform_train(cfg, choices, target_size, normalize):
    """Return the training transform of ``cfg.INPUT``; `target_size` and `normalize` are the lines that Dassl prints."""
    return build_transform(cfg, True, choices)


def _build_transform_test(cfg, choices, target_size, normalize):
    """Return the test transform of ``cfg.INPUT``; `target_size` and `normalize` are the lines that Dassl prints."""
    return build_transform(cfg, False, choices)


def _train_steps(cfg, choices):
    """Yield the line to print and the transform of each step."""
    size = cfg.SIZE
    mode = INTERPOLATION_MODES[cfg.INTERPOLATION]
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        yield f"resize to {size[0]}x{size[1]}", T.Resize(size, interpolation=mode)
    if "random_translation" in choices:
        yield "random translation", Random2DTranslation(size[0], size[1])
    if "random_crop" in choices:
        yield f"random crop (padding = {cfg.CROP_PADDING})", T.RandomCrop(size, padding=cfg.CROP_PADDING)
    if "random_resized_crop" in choices:
        scale = cfg.RRCROP_SCALE
        yield (
            f"random resized crop (size={size}, scale={scale})",
            T.RandomResizedCrop(size, scale=scale, interpolation=mode),
        )
    if "random_flip" in choices:
        yield "random flip", T.RandomHorizontalFlip()
    if "imagenet_policy" in choices:
        yield "imagenet policy", ImageNetPolicy()
    if "cifar10_policy" in choices:
        yield "cifar10 policy", CIFAR10Policy()
    if "svhn_policy" in choices:
        yield "svhn policy", SVHNPolicy()
    n, m = cfg.RANDAUGMENT_N, cfg.RANDAUGMENT_M
    if "randaugment" in choices:
        yield f"randaugment (n={n}, m={m})", RandAugment(n, m)
    if "randaugment_fixmatch" in choices:
        yield f"randaugment_fixmatch (n={n})", RandAugmentFixMatch(n)
    if "randaugment2" in choices:
        yield f"randaugment2 (n={n})", RandAugment2(n)
    if "colorjitter" in choices:
        b, c, s, h = cfg.COLORJITTER_B, cfg.COLORJITTER_C, cfg.COLORJITTER_S, cfg.COLORJITTER_H
        yield (
            f"color jitter (brightness={b}, contrast={c}, saturation={s}, hue={h})",
            T.ColorJitter(brightness=b, contrast=c, saturation=s, hue=h),
        )
    if "randomgrayscale" in choices:
        yield "random gray scale", T.RandomGrayscale(p=cfg.RGS_P)
    if "gaussian_blur" in choices:
        yield f"gaussian blur (kernel={cfg.GB_K})", T.RandomApply([T.GaussianBlur(cfg.GB_K)], p=cfg.GB_P)
    yield "to torch tensor of range [0, 1]", T.ToTensor()
    if "cutout" in choices:
        n_holes, length = cfg.CUTOUT_N, cfg.CUTOUT_LEN
        yield f"cutout (n_holes={n_holes}, length={length})", Cutout(n_holes, length)
    if "normalize" in choices:
        yield _normalize(cfg)
    if "gaussian_noise" in choices:
        mean, std = cfg.GN_MEAN, cfg.GN_STD
        yield f"gaussian noise (mean={mean}, std={std})", GaussianNoise(mean, std)
    if "instance_norm" in choices:
        yield "instance normalization", InstanceNormalization()


def _test_steps(cfg, choices):
    """Yield the line to print and the transform of each step."""
    size = cfg.SIZE
    mode = INTERPOLATION_MODES[cfg.INTERPOLATION]
    yield f"resize the smaller edge to {max(size)}", T.Resize(max(size), interpolation=mode)
    yield f"{size[0]}x{size[1]} center crop", T.CenterCrop(size)
    yield "to torch tensor of range [0, 1]", T.ToTensor()
    if "normalize" in choices:
        yield _normalize(cfg)
    if "instance_norm" in choices:
        yield "instance normalization", InstanceNormalization()


def _normalize(cfg):
    mean, std = cfg.PIXEL_MEAN, cfg.PIXEL_STD
    return f"normalization (mean={mean}, std={std})", T.Normalize(mean=mean, std=std)


def __getattr__(name):
    if not name.startswith("_") and hasattr(T, name):  # trainers import torchvision's transforms from here too
        return getattr(T, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
