"""The Dassl of a checkout's authors, as a layer over the bundled engine.

Authors change a few modules of Dassl: the test loop, the data manager, the printed digits. A whole Dassl fails on
current torch. So the modules that they changed are taken from it, and those that the bundled engine does not have; all
others are the engine's. Changed is what differs from every version in the history of Dassl
(``assets/dassl_versions.txt``) in more than comments and blank lines.
"""

import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import ModuleType

from qprompt import engine

_FIELDS = ("da", "dg", "ssl")
_NEEDED = ("config", "data", "data.datasets", "engine", "evaluation", "metrics", "optim", "utils")
# What the engine has in part, or as placeholders.
_OTHER_FIELDS = ("modeling/", *(f"{part}/{field}/" for part in ("engine", "data/datasets") for field in _FIELDS))
_PACKAGES = {"cv2": "opencv-python", "ot": "POT", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "PyYAML"}


@dataclass(frozen=True)
class OwnDassl:
    """A Dassl that the checkout's authors may have changed.

    Attributes:
        folder: contains ``dassl``.
        changed: its changed files, relative to ``dassl``.
        why_not: why they are not used; "" if they are.
    """

    folder: Path
    changed: tuple[str, ...]
    why_not: str = ""

    def __str__(self) -> str:
        if not self.changed:
            return ""
        shown = ", ".join(self.changed[:6]) + (f" and {len(self.changed) - 6} more" if len(self.changed) > 6 else "")
        if self.why_not:
            return f"the Dassl in {self.folder} is not used, nor what its authors changed ({shown}): {self.why_not}"
        return (
            f"of the Dassl in {self.folder}, {shown} are used, which its authors changed; the rest is the bundled "
            f"engine. {engine.VARIABLE}=bundled leaves them out"
        )

    def may_explain(self, error: BaseException) -> bool:
        """Return whether an error of the script may come from the changes: inside of them, or for lack of them."""
        if not self.changed or not isinstance(error, Exception):
            return False
        if self.why_not:
            return not isinstance(error, ModuleNotFoundError) or (error.name or "").startswith("dassl")
        frames = traceback.extract_tb(error.__traceback__)
        return any(Path(frame.filename).is_relative_to(self.folder / "dassl") for frame in frames)


def use_own_dassl(checkout: str) -> OwnDassl | None:
    """Put the changed modules of the Dassl that belongs to a checkout over the engine, if they work.

    This is the Dassl that the environment imports, if it does not work as a whole; otherwise the one in the checkout.
    Call it after `engine.activate`, before anything of dassl is imported.

    Returns:
        The Dassl and what became of it, or None if there is none besides the active one.
    """
    active, asked = engine.activate(), os.environ.get(engine.VARIABLE, "")
    imported, near = engine.installed_dassl(), engine.own_dassl(checkout)
    if active.name == "dassl":
        if near is None or (imported is not None and near == imported.parent):
            return None
        return OwnDassl(near, changed_files(near / "dassl"), f"the installed one works, in {imported}")
    folder = imported.parent if imported is not None else near
    if folder is None:
        return None
    changed = changed_files(folder / "dassl")
    whole = f"{engine.VARIABLE}=dassl uses all of it, if it works with this torch"
    if asked == "bundled":
        return OwnDassl(folder, changed, f"{engine.VARIABLE}=bundled; without this setting they are used, if they work")
    if imported is None and not _belongs_to(folder, checkout):
        return OwnDassl(folder, changed, f"it lies beside the checkout, not in it. {whole}")
    fault = _put_over(folder / "dassl", changed)
    return OwnDassl(folder, changed, f"{fault}. {whole}" if fault else "")


def _belongs_to(folder: Path, checkout: str) -> bool:
    """Return whether a folder lies in the checkout, or in the repository that contains it."""
    place = Path(checkout).resolve()
    repository = next((parent for parent in (place, *place.parents) if (parent / ".git").exists()), place)
    return repository in (folder.resolve(), *folder.resolve().parents)


def fingerprint(text: str) -> str:
    """Return a hash of a Python file that does not depend on comments, blank lines and trailing blanks."""
    lines = [line.rstrip() for line in text.splitlines() if re.match(r"\s*[^\s#]", line)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:10]


def changed_files(package: Path) -> tuple[str, ...]:
    """Return the Python files below `package` that are in no published version of Dassl, as relative paths."""
    published = set(resources.files("qprompt.assets").joinpath("dassl_versions.txt").read_text("utf-8").split())
    texts = {file: file.read_text(encoding="utf-8", errors="replace") for file in sorted(package.rglob("*.py"))}
    return tuple(
        file.relative_to(package).as_posix() for file, text in texts.items() if fingerprint(text) not in published
    )


class _Layer(importlib.abc.MetaPathFinder):
    """Finds some modules of ``dassl`` in a folder, before the import system looks for those of the engine."""

    def __init__(self, package: Path, changed: Iterable[str]) -> None:
        lacking = {file.relative_to(package).as_posix() for file in package.rglob("*.py")}
        lacking = {path for path in lacking if path.startswith(_OTHER_FIELDS) or not (engine.BUNDLED / path).exists()}
        self.package = package
        self.files = {_module(path): path for path in lacking.union(changed) if path != "__init__.py"}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = self.files.get(fullname)
        if file is None:
            return None
        folders = [str((root / file).parent) for root in (engine.BUNDLED, self.package)]
        locations = [folder for folder in folders if os.path.isdir(folder)] if file.endswith("__init__.py") else None
        return importlib.util.spec_from_file_location(
            fullname, self.package / file, submodule_search_locations=locations
        )


def _module(path: str) -> str:
    return ".".join(["dassl", *path.removesuffix(".py").removesuffix("/__init__").split("/")])


def _put_over(package: Path, changed: Sequence[str]) -> str:
    """Put modules of `package` over the engine; if that does not work, undo it and return why."""
    if "__init__.py" in changed:
        return f"{package / '__init__.py'} is changed, which the engine cannot take over"
    layer = _Layer(package, changed)
    before = list(sys.meta_path)
    position = next((i for i, finder in enumerate(before) if finder is importlib.machinery.PathFinder), 0)
    engine.stand_in_for_optional_packages()
    sys.meta_path.insert(position, layer)
    fault = _fault(layer.files, changed)
    if fault:
        sys.meta_path[:] = before
        engine.forget_dassl()
    return fault


def _fault(files: Mapping[str, str], changed: Sequence[str]) -> str:
    """Return why the engine with this layer does not work, or ""."""
    import torch

    wanted = [f"dassl.{name}" for name in _NEEDED]
    wanted += [module for module, file in files.items() if file in changed and (engine.BUNDLED / file).exists()]
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in wanted:
                importlib.import_module(name)
            engine.schedule_save_and_resume(torch)
    except ModuleNotFoundError as error:
        name = error.name or ""
        return f"they need {name}, which is not installed: pip install {_PACKAGES.get(name, name)}"
    except Exception as error:  # of third-party code
        first = str(error).strip().partition("\n")[0]
        return f"they fail on torch {torch.__version__}: {type(error).__name__}: {first}"
    return ""
