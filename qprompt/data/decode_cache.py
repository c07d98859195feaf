"""Keeps decoded images in memory that all DataLoader workers share, up to a bound."""

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
    """RGB pixels of known files. First come, first kept: nothing is evicted, what does not fit is decoded each time.

    (Training visits every image once an epoch. Against that pattern eviction would throw out each image just
    before its next use; keeping a fixed part is the best a bounded cache can do.)

    The memory is one anonymous shared mapping, so that workers started by fork fill and read it together; pages are
    taken from the system only when written. A worker started in another way has no cache and decodes.
    """

    def __init__(self, paths: Sequence[str], limit: int):
        """A cache of at most `limit` bytes for the files `paths`."""
        self._slots = {path: slot for slot, path in enumerate(dict.fromkeys(paths))}
        self._limit = max(limit, 1)
        self._pixels = mmap.mmap(-1, self._limit)
        # a slot's row: offset, width, height; width 0 as long as the image is not kept
        self._table = memoryview(mmap.mmap(-1, max(len(self._slots), 1) * 24)).cast("Q")
        self._used = multiprocessing.get_context("fork" if hasattr(os, "fork") else None).Value("Q", 0)

    @property
    def used(self) -> int:
        """Bytes taken."""
        return self._used.value

    def read(self, path: str) -> Image.Image:
        """The pixels kept for `path`, else those of the file, which are kept if there is room."""
        image = self.get(path)
        if image is None:
            image = read_image(path)
            self.put(path, image)
        return image

    def get(self, path: str) -> Image.Image | None:
        """A new image with the pixels kept for `path`, or None."""
        slot = self._slots.get(path)
        if slot is None:
            return None
        with self._used.get_lock():
            offset, width, height = self._table[3 * slot : 3 * slot + 3]
        if width == 0:
            return None
        return Image.frombytes("RGB", (width, height), self._pixels[offset : offset + 3 * width * height])

    def put(self, path: str, image: Image.Image) -> None:
        """Keep the pixels of `image` if there is room."""
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


def for_files(paths: Sequence[str], megabytes: int) -> DecodeCache | None:
    """A cache for `paths`; 0 `megabytes`: none, below 0: as much as `default_limit` says."""
    limit = default_limit() if megabytes < 0 else megabytes * MB
    with contextlib.suppress(OSError, ValueError, OverflowError):  # a system that promises no more memory than it has
        return DecodeCache(paths, limit) if limit else None
    return None


def default_limit() -> int:
    """Bytes: a quarter of the memory that this process may still take, at most 4 GB; 0 if the system does not tell."""
    free = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    # the limit of a container
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            free.append(int(Path("/sys/fs/cgroup", file).read_text()))
    return min([4000 * MB, *(number // 4 for number in free)]) if free else 0
