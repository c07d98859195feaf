"""Decode many images in parallel to find the unreadable ones."""

import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from qprompt.data.images import ImageError, limits, read_with_notes, set_limits
from qprompt.io.cores import available_cores


class Decoded(NamedTuple):
    """The result for one file.

    Attributes:
        path: The file.
        fault: The error message; empty if the image is readable.
        digest: The SHA-256 of the file as hex digits, if requested.
        notes: What a viewer does to the pixels (`qprompt.data.viewing.as_viewed`).
    """

    path: str
    fault: str
    digest: str
    notes: tuple[str, ...] = ()


def _decode_some(paths: Sequence[str], with_digest: bool) -> list[Decoded]:
    found = []
    for path in paths:
        fault = digest = ""
        notes: tuple[str, ...] = ()
        try:
            _, notes = read_with_notes(path)
            if with_digest:
                digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except ImageError as error:
            fault = str(error)
        found.append(Decoded(path, fault, digest, notes))
    return found


def decode_all(
    paths: Sequence[str], workers: int = 0, with_digest: bool = False, chunk: int = 256, label: str = "images"
) -> Iterator[Decoded]:
    """Decode every file, with a progress bar if standard error is a terminal.

    Args:
        paths: The image files.
        workers: The number of processes; 0: one per processor.
        with_digest: Whether to hash the files.
        chunk: The number of files that a process gets at once.
        label: The text in front of the progress bar.

    Yields:
        One result per file, in order.
    """
    chunks = [paths[start : start + chunk] for start in range(0, len(paths), chunk)]
    workers = min(workers or available_cores(), len(chunks))
    with tqdm(total=len(paths), desc=label, unit=" images", disable=None, leave=False) as bar:
        if workers < 2:
            for part in chunks:
                yield from _decode_some(part, with_digest)
                bar.update(len(part))
            return
        # Not fork: forking a process that has threads can deadlock.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=set_limits, initargs=(limits(),)) as pool:
            for results in pool.map(_decode_some, chunks, [with_digest] * len(chunks)):
                yield from results
                bar.update(len(results))
