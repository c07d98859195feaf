"""Reading checkpoints without running what is in them.

A pickle can name any function and have it called. Files of this engine hold only tensors and plain values, and
torch's weights-only reader takes those. Checkpoints of real Dassl also hold a live scheduler with a live optimizer
inside; they are read with every class but the tensors' replaced by an inert placeholder.
"""

import pickle
import zipfile
from collections import Counter, OrderedDict
from types import SimpleNamespace
from typing import Any

import torch

from .tools import BadFile

_ADMITTED = {
    ("collections", "Counter"): Counter,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
}


class Inert:
    """Stands for an object that was not admitted: keeps its attributes, does nothing."""

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


# The pure-Python unpickler: the C one sizes its memo table by an index that the file claims.
class _RestrictedUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    def find_class(self, module: str, name: str) -> Any:
        admitted = _ADMITTED.get((module, name))
        return admitted if admitted is not None else type(f"{module}.{name}", (Inert,), {})


def _restricted_load(file: Any, **kwargs: Any) -> Any:
    return _RestrictedUnpickler(file, **kwargs).load()


_RESTRICTED_PICKLE = SimpleNamespace(
    Unpickler=_RestrictedUnpickler, load=_restricted_load, __name__="restricted_pickle"
)


def read_checkpoint(path: str, map_location: Any = None) -> Any:
    """What `torch.save` wrote to `path`, with live objects as `Inert`; BadFile when it cannot be read."""
    try:
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError:
            if not zipfile.is_zipfile(path):
                raise
            return torch.load(path, map_location=map_location, weights_only=False, pickle_module=_RESTRICTED_PICKLE)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise BadFile(
            f"{path} is not a readable checkpoint: it is truncated, damaged or something else ({reason})"
        ) from error
