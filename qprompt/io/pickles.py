"""An unpickler for files from anyone; what it may build is up to its ``find_class``."""

import pickle
from typing import Any, BinaryIO


class BoundedUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Takes no more memory than `limit` bytes at once, whatever sizes the pickle claims.

    The unpickler written in Python: of the one in C, five bytes can ask for 32 GB (its memo is an array).
    """

    # Only byte arrays are made before they are read; nothing that is read here holds any.
    dispatch = {code: read for code, read in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}  # type: ignore[attr-defined]

    def __init__(self, file: BinaryIO, limit: int, **kwargs: Any) -> None:
        super().__init__(file, **kwargs)
        self._file_read = lambda count: file.read(min(count, limit))  # a file makes a buffer of that size first
