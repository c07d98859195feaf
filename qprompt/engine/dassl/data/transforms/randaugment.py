"""RandAugment (Cubuk et al., NeurIPS 2020), a variant with random strength, and FixMatch's (arXiv 2001.07685)."""

import random

from . import operations
from .operation_tables import FIXMATCH, OPERATIONS, RANDAUGMENT, RANDAUGMENT2


class RandAugment:
    """Applies `n` random operations with magnitude `m`, from 0 (weakest) to 30 (strongest)."""

    def __init__(self, n=2, m=10):
        assert 0 <= m <= 30
        self.n = n
        self.m = m

    def __call__(self, img):
        for name, weakest, strongest in random.choices(RANDAUGMENT, k=self.n):
            img = OPERATIONS[name](img, self.m / 30 * (strongest - weakest) + weakest)
        return img


class RandAugment2:
    """Applies `n` random operations, each with probability `p` and a random strength."""

    def __init__(self, n=2, p=0.6):
        self.n = n
        self.p = p

    def __call__(self, img):
        for name, weakest, strongest in random.choices(RANDAUGMENT2, k=self.n):
            if random.random() > self.p:
                continue
            img = OPERATIONS[name](img, random.random() * (strongest - weakest) + weakest)
        return img


class RandAugmentFixMatch:
    """Applies `n` random operations of FixMatch's list with random strengths."""

    def __init__(self, n=2):
        self.n = n

    def __call__(self, img):
        for name, weakest, strongest in random.choices(FIXMATCH, k=self.n):
            img = OPERATIONS[name](img, random.random() * (strongest - weakest) + weakest)
        return img


def __getattr__(name):
    if name in operations.NAMED:  # Dassl has the operations here
        return operations.NAMED[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
