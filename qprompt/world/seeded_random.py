"""Random choices that are equal on every machine and with every version of NumPy."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class SeededRandom:
    """A stream of random choices seeded by `key`, e.g. ``SeededRandom("train", 7)``.

    It uses the raw 64-bit words of PCG64: NumPy guarantees that they never change, unlike the methods of its Generator.
    """

    def __init__(self, *key: object) -> None:
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        self._bits = np.random.PCG64(int.from_bytes(digest[:16], "little"))

    def integer(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        # The bias of the modulo is below 2**-50 for small ranges.
        return low + self._bits.random_raw() % (high - low + 1)

    def chance(self, percent: int) -> bool:
        """Return True with a probability of `percent`."""
        return self.integer(0, 99) < percent

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[self.integer(0, len(items) - 1)]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Return `count` different items in random order."""
        pool = list(items)
        for i in range(count):
            j = self.integer(i, len(pool) - 1)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:count]

    def bytes(self, count: int) -> np.ndarray:
        """Return random bytes, (count,) uint8."""
        words = self._bits.random_raw((count + 7) // 8)
        return words.astype("<u8").view(np.uint8)[:count]
