"""Import the `clip` package with any version of setuptools."""

import importlib
import importlib.util
import sys
import types
import warnings
from types import ModuleType
from typing import Any, TypeAlias

from qprompt.errors import UserError

# clip.model.CLIP. Any, because the package has no types and torch declares attributes of modules as Tensor | Module.
ClipModel: TypeAlias = Any

_INSTALL = "Install it: pip install clip-anytorch"


def import_clip() -> ModuleType:
    """Return the `clip` package (openai/CLIP), with `clip.model`, `clip.tokenize` and `clip.simple_tokenizer`.

    The published packages import `packaging` through `pkg_resources`, which setuptools 82 removed. Where it is missing,
    a replacement with only `packaging` exists while `clip` is imported.

    Raises:
        UserError: `clip` is not installed, or the module of that name is another package.
    """
    if sys.modules.get("clip") is None:
        if importlib.util.find_spec("clip") is None:
            raise UserError(f"the Python package 'clip' is not installed. {_INSTALL}")
        _import_with_pkg_resources()
    clip = importlib.import_module("clip")
    if not (hasattr(clip, "tokenize") and hasattr(clip, "model")):
        where = getattr(clip, "__file__", None) or list(getattr(clip, "__path__", ["?"]))[0]
        raise UserError(f"'import clip' found {where}, which is not OpenAI's CLIP. {_INSTALL}")
    return clip


def _import_with_pkg_resources() -> None:
    replacement = None
    if "pkg_resources" not in sys.modules and importlib.util.find_spec("pkg_resources") is None:
        packaging = importlib.import_module("packaging")
        importlib.import_module("packaging.version")
        replacement = types.ModuleType("pkg_resources")
        replacement.packaging = packaging  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = replacement
    try:
        with warnings.catch_warnings():
            # Older setuptools warn that pkg_resources is deprecated, which users cannot change.
            warnings.simplefilter("ignore")
            importlib.import_module("clip.model")
    finally:
        if replacement is not None:
            sys.modules.pop("pkg_resources", None)
