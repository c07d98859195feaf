"""An unpickler for untrusted files. A subclass restricts what it builds with ``find_class``."""

import pickle
from typing import Any, BinaryIO


class BoundedUnpickler(pickle._Unpickler):
    """An unpickler that never allocates more than `limit` bytes at once, whatever sizes the pickle claims.

    It is the unpickler written in Python: five bytes can make the one in C allocate 32 GB, as its memo is an array.
    """

    # Byte arrays are the only objects allocated before they are read. The files read here do not contain any.
    dispatch = {code: read for code, read in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}

    def __init__(self, file: BinaryIO, limit: int, **kwargs: Any) -> None:
        super().__init__(file, **kwargs)
        self._file_read = lambda count: file.read(min(count, limit))  # file.read allocates `count` bytes first
