"""Prompt-learning methods, one module per method: its learner, names, default settings and storage.

A module in this package that registers a `Method` is a method everywhere: as a trainer ``X`` and its quantized version
``QX``, in config files (``TRAINER.<NODE>``), in prompt files, and in `qprompt pack`, `unpack` and `predict`.
"""

import pkgutil
from importlib import import_module

from qprompt.prompts.method import Method, find_method, get_method, identify, methods, register, starting_bits

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Method", "find_method", "get_method", "identify", "methods", "register", "starting_bits"]
