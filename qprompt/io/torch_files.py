"""Read files of `torch.save` without executing their content and without trusting the sizes that they claim.

A pickle can call any function. Here all names except a few are replaced by inert placeholders: checkpoints of real
Dassl contain a live scheduler, those of SLIP an argparse.Namespace. torch's weights-only reader refuses such files, and
for files in its old format it allocates as much memory as they claim.
"""

import io
import math
import os
import pickle
import warnings
import zipfile
from collections import Counter, OrderedDict
from types import SimpleNamespace
from typing import Any

import torch

from qprompt.errors import UserError
from qprompt.io.pickles import BoundedUnpickler


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint without executing its content.

    Returns:
        The whole content, and the state dict in it. For a file with only a state dict both are the state dict.

    Raises:
        UserError: the file does not exist or is not a checkpoint.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no checkpoint {path}.")
    try:
        content = read_torch_file(path, map_location="cpu")
    except ValueError as error:
        raise UserError(f"{path} is not a readable checkpoint: {error}") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise UserError(f"{path} is not a checkpoint: it does not contain a state dict.")
    return content, state


def read_torch_file(path: str | os.PathLike[str] | bytes, map_location: Any = "cpu") -> Any:
    """Return the content of a file of `torch.save`, or of its bytes.

    Args:
        path: path or content of the file.
        map_location: see `torch.load`.

    Returns:
        The content. Objects other than tensors, plain values and containers are `Inert`.

    Raises:
        ValueError: the file is damaged or was not written by `torch.save`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are for the author of the file
            size = len(path) if isinstance(path, bytes) else os.path.getsize(path)
            unpickler = _reader(_sizes(_opened(path), size), size)
            reader = SimpleNamespace(Unpickler=unpickler, __name__="restricted_pickle")
            reader.load = lambda file, **kwargs: unpickler(file, **kwargs).load()
            return torch.load(_opened(path), map_location=map_location, weights_only=False, pickle_module=reader)
    # Reading a damaged file can raise almost any error.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"it is truncated, damaged or of another kind ({reason})") from error


class Inert:
    """A placeholder for an object that is not admitted: it has the attributes of the object and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any):
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def _ignore(self, *args: Any) -> None:
        pass

    __setitem__ = append = extend = add = _ignore

    def __call__(self, *args: Any) -> "Inert":
        return self

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, not loaded>"


def _rebuild_tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Any:
    """Return a tensor, as torch's function does, after checking that it lies within its storage."""
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("a tensor's shape is malformed")
    entries = storage.nbytes() // storage._element_size()
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > entries or (0 not in size and last >= entries):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} is larger than its storage")
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, *rest)


_ADMITTED = {
    ("collections", "Counter"): Counter,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),  # bytes, in old protocols
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    **{("torch", str(t).removeprefix("torch.")): t for t in vars(torch).values() if isinstance(t, torch.dtype)},
}


def _opened(path: str | os.PathLike[str] | bytes) -> Any:
    return io.BytesIO(path) if isinstance(path, bytes) else path


def _sizes(path: Any, size: int) -> dict[str, int] | int:
    """Return the bytes of each storage by key; for torch's old format, which lacks them, the size of the file."""
    if not zipfile.is_zipfile(path):
        return size
    found = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.header_offset + info.file_size > size:
                raise ValueError(f"{info.filename} in it is smaller than it claims")
            found[info.filename.rpartition("/data/")[2]] = info.file_size
    return found


def _reader(sizes: dict[str, int] | int, limit: int) -> type:
    class Unpickler(BoundedUnpickler):
        def __init__(self, file: Any, **kwargs: Any) -> None:
            super().__init__(file, limit, **kwargs)

        @property
        def persistent_load(self) -> Any:
            return self._checked

        @persistent_load.setter
        def persistent_load(self, load: Any) -> None:  # torch sets it
            self._load = load

        def _checked(self, claim: Any) -> Any:
            kind, dtype, key, _, count = claim[:5]
            item = torch._utils._element_size(getattr(dtype, "dtype", torch.uint8))
            held = sizes if isinstance(sizes, int) else sizes.get(key, 0)
            if kind != "storage" or not isinstance(count, int) or not 0 <= count * item <= held:
                raise pickle.UnpicklingError(f"storage {key!r} of {count!r} entries is not in the file")
            return self._load(claim)

        def find_class(self, module: str, name: str) -> Any:
            admitted = _ADMITTED.get((module, name))
            return admitted if admitted is not None else type(f"{module}.{name}", (Inert,), {})

    return Unpickler
