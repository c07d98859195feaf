"""Random choices that are the same on every machine and under every NumPy version."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """A stream of random choices named by `key`, e.g. ``Dice("train", 7)``.

    Built on the raw 64-bit words of PCG64: NumPy guarantees these for ever, while the methods of its
    Generator may change between versions.
    """

    def __init__(self, *key: object) -> None:
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        self._bits = np.random.PCG64(int.from_bytes(digest[:16], "little"))

    def integer(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
        # The modulo's bias is below 2**-50 for the small ranges used here.
        return low + self._bits.random_raw() % (high - low + 1)

    def chance(self, percent: int) -> bool:
        return self.integer(0, 99) < percent

    def choice(self, items: Sequence[T]) -> T:
        return items[self.integer(0, len(items) - 1)]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items, in random order."""
        pool = list(items)
        for i in range(count):
            j = self.integer(i, len(pool) - 1)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:count]

    def bytes(self, count: int) -> np.ndarray:
        """(count,) uint8."""
        words = self._bits.random_raw((count + 7) // 8)
        return words.astype("<u8").view(np.uint8)[:count]
