"""A cache of decoded images in memory of bounded size that all DataLoader workers share."""

import contextlib
import mmap
import multiprocessing
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from qprompt.data.images import read_image

MB = 1_000_000


class DecodeCache:
    """RGB pixels of known files. Nothing is evicted: an image that does not fit is decoded each time.

    Training reads every image once per epoch. For this access pattern, eviction would remove each image just before
    its next use; a fixed subset is the best that a bounded cache can do.

    The memory is one anonymous shared mapping, so that forked workers fill and read it together. The operating system
    allocates a page only when it is written.
    """

    def __init__(self, paths: Sequence[str], limit: int, pixels: str = "viewer"):
        """Reserve the memory.

        Args:
            paths: The files that may be cached.
            limit: The maximum size in bytes.
            pixels: How `read_image` reads them.

        Raises:
            OSError, ValueError, OverflowError: The system does not grant so much memory.
        """
        self._slots = {path: slot for slot, path in enumerate(dict.fromkeys(paths))}
        self._limit, self._how = max(limit, 1), pixels
        self._pixels = mmap.mmap(-1, self._limit)
        # The row of a slot: offset, width, height. Width 0: the image is not cached.
        self._table = memoryview(mmap.mmap(-1, max(len(self._slots), 1) * 24)).cast("Q")
        self._used = multiprocessing.get_context("fork" if hasattr(os, "fork") else None).Value("Q", 0)

    @property
    def used(self) -> int:
        """The number of bytes in use."""
        return self._used.value

    def read(self, path: str) -> Image.Image:
        """Return the image at `path` as RGB, from the cache or else from the file.

        An image read from the file is cached if there is room.

        Raises:
            ImageError: The file is missing, damaged or too large.
        """
        image = self.get(path)
        if image is None:
            image = read_image(path, self._how)
            self.put(path, image)
        return image

    def get(self, path: str) -> Image.Image | None:
        """Return a new image with the cached pixels of `path`, or None."""
        slot = self._slots.get(path)
        if slot is None:
            return None
        with self._used.get_lock():
            offset, width, height = self._table[3 * slot : 3 * slot + 3]
        if width == 0:
            return None
        return Image.frombytes("RGB", (width, height), self._pixels[offset : offset + 3 * width * height])

    def put(self, path: str, image: Image.Image) -> None:
        """Cache the pixels of `image` if there is room."""
        slot = self._slots.get(path)
        size = 3 * image.width * image.height
        if slot is None or self._used.value + size > self._limit:
            return
        with self._used.get_lock():
            offset = self._used.value
            if offset + size > self._limit or self._table[3 * slot + 1]:
                return
            self._used.value = offset + size
            self._pixels[offset : offset + size] = image.tobytes()
            self._table[3 * slot : 3 * slot + 3] = memoryview(array("Q", (offset, image.width, image.height)))


def for_files(paths: Sequence[str], megabytes: int, pixels: str = "viewer") -> DecodeCache | None:
    """Create a cache for the files `paths`.

    Args:
        paths: The files that may be cached.
        megabytes: The maximum size; 0: no cache; negative: `default_limit`.
        pixels: How `read_image` reads them.

    Returns:
        The cache, or None if it is turned off or the system does not grant the memory.
    """
    limit = default_limit() if megabytes < 0 else megabytes * MB
    with contextlib.suppress(OSError, ValueError, OverflowError):  # the system grants no more memory than it has
        return DecodeCache(paths, limit, pixels) if limit else None
    return None


def default_limit() -> int:
    """Return a quarter of the memory that this process may still use, at most 4 GB, in bytes; 0 if it is unknown."""
    free = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    # The limit of a container.
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            free.append(int(Path("/sys/fs/cgroup", file).read_text()))
    return min([4000 * MB, *(number // 4 for number in free)]) if free else 0
