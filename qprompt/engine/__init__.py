"""Choose the Dassl that ``import dassl`` gives: the installed one if it works, otherwise the bundled one.

For the bundled engine this folder is added to `sys.path`, so it must contain no other importable name than ``dassl``.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from qprompt.errors import UserError, did_you_mean

CHOICES = ("auto", "dassl", "bundled")
VARIABLE = "QPROMPT_ENGINE"
HERE = Path(__file__).resolve().parent
BUNDLED = HERE / "dassl"
HOW_TO_INSTALL = "pip install git+https://github.com/KaiyangZhou/Dassl.pytorch"

# Packages that real Dassl imports for downloads and for data sets of other fields.
OPTIONAL = ("gdown", "wilds")

_active: "EngineInfo | None" = None


@dataclass(frozen=True)
class EngineInfo:
    """The Dassl that ``import dassl`` gives.

    Attributes:
        name: "dassl" (installed) or "bundled".
        path: its folder.
        reason: why it was chosen.
    """

    name: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"engine: {'bundled Dassl' if self.name == 'bundled' else 'installed Dassl'} ({self.reason})"


def activate() -> EngineInfo:
    """Make ``import dassl`` work in this process. Further calls return the first result.

    The environment variable QPROMPT_ENGINE selects ``dassl`` (the installed one, or an error), ``bundled``, or ``auto``
    (the default: the installed one if it works with this torch).

    Returns:
        The Dassl that ``import dassl`` gives.

    Raises:
        UserError: the variable has another value, the installed Dassl is selected but does not work, or another dassl
            was imported before.
    """
    global _active
    choice = os.environ.get(VARIABLE, "") or "auto"
    if choice not in CHOICES:
        raise UserError(
            f"{VARIABLE} is {choice!r}, expected one of {', '.join(CHOICES)}.{did_you_mean(choice, CHOICES)}"
        )
    if _active is None or not _agrees(choice, _active):
        _active = _choose(choice)
    return _active


def _agrees(choice: str, active: EngineInfo) -> bool:
    if choice in ("auto", active.name):
        return True
    raise UserError(f"{VARIABLE} asks for {choice!r}, but {active} is already in use in this process")


def _choose(choice: str) -> EngineInfo:
    imported = sys.modules.get("dassl")
    if imported is not None and _folder_of(imported) == BUNDLED:
        return EngineInfo("bundled", str(BUNDLED), "it was already imported")
    if imported is not None and choice == "bundled":
        raise UserError(f"another dassl was imported before, from {_folder_of(imported)}: activate the engine first")
    if choice == "bundled":
        return _use_bundled(f"{VARIABLE}=bundled")

    folder = installed_dassl() if imported is None else _folder_of(imported)
    fault = "no 'dassl' is installed" if folder is None else why_unusable(folder)
    if fault is None:
        import dassl

        version = getattr(dassl, "__version__", "of unknown version")
        return EngineInfo("dassl", str(folder), f"{version} in {folder}")
    if choice == "dassl":
        hint = f": {HOW_TO_INSTALL}" if folder is None else f"; unset {VARIABLE} to use the bundled engine"
        raise UserError(f"{VARIABLE}=dassl, but {fault}{hint}")
    if imported is not None:
        raise UserError(f"another dassl was imported before, from {folder}, and {fault}: activate the engine first")
    return _use_bundled(fault)


def _folder_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve().parent if file else None


def _use_bundled(reason: str) -> EngineInfo:
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    importlib.invalidate_caches()
    return EngineInfo("bundled", str(BUNDLED), reason)


def installed_dassl() -> Path | None:
    """Return the folder of a dassl on the path other than the bundled one, without importing it."""
    importlib.invalidate_caches()
    hidden = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    spec = importlib.machinery.PathFinder.find_spec("dassl", hidden)
    return Path(spec.origin).resolve().parent if spec is not None and spec.origin else None


def why_unusable(folder: Path) -> str | None:
    """Return why the dassl in `folder` does not work here, or None if it works.

    Two things fail over time: packages that it imports are not installed, and current torch rejects its schedulers and
    checkpoints. Both are tried without importing all of it, which takes seconds. It stays imported if it works.
    """
    missing = [name for name in _missing_imports(folder) if name not in OPTIONAL]
    if missing:
        are = "which is" if len(missing) == 1 else "which are"
        return f"the dassl in {folder} needs {', '.join(missing)}, {are} not installed"
    import torch

    stand_in_for_optional_packages()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule_save_and_resume(torch)
    except Exception as error:
        forget_dassl()
        reason = str(error).strip().partition("\n")[0]
        return f"the dassl in {folder} fails on torch {torch.__version__}: {type(error).__name__}: {reason}"
    return None


def forget_dassl() -> None:
    """Remove ``dassl`` from the imported modules."""
    for name in [name for name in sys.modules if name == "dassl" or name.startswith("dassl.")]:
        del sys.modules[name]


class _Optional(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The last finder: gives a stand-in for an optional package that is not installed. Using it is an ImportError."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        known = fullname.partition(".")[0] in OPTIONAL
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__

        def stand_in(*args: object, **options: object) -> None:
            raise ImportError(f"{name.partition('.')[0]} is not installed, and is needed here: pip install it")

        def __getattr__(attribute: str) -> object:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return stand_in

        module.__getattr__ = __getattr__  # type: ignore[method-assign]


def stand_in_for_optional_packages() -> None:
    """Let real Dassl import packages of `OPTIONAL` that are not installed."""
    if not any(isinstance(finder, _Optional) for finder in sys.meta_path):
        sys.meta_path.append(_Optional())


def own_dassl(checkout: str | os.PathLike[str]) -> Path | None:
    """Return the folder, in a checkout or one folder below or beside it, that contains a Dassl of its own."""
    place = Path(checkout).resolve()
    for folder in (place, *sorted(place.glob("*[Dd]assl*")), *sorted(place.parent.glob("*[Dd]assl*"))):
        found = folder / "dassl" / "engine" / "trainer.py"
        if found.is_file() and BUNDLED not in found.parents:
            return folder
    return None


def _missing_imports(folder: Path) -> list[str]:
    """Return the top-level modules that its files import unconditionally and that are not installed."""
    statement = re.compile(r"^(?:import|from)\s+(\w+)", re.MULTILINE)
    names: set[str] = set()
    for file in folder.rglob("*.py"):
        names.update(statement.findall(file.read_text(encoding="utf-8", errors="replace")))
    return sorted(name for name in names - {"dassl"} if importlib.util.find_spec(name) is None)


def schedule_save_and_resume(torch: ModuleType) -> None:
    """Build a warm-up schedule, save a checkpoint and load it, with the dassl that is on the path."""
    from dassl.optim.lr_scheduler import ConstantWarmupScheduler
    from dassl.utils import resume_from_checkpoint, save_checkpoint

    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2.0)
    scheduler = ConstantWarmupScheduler(optimizer, cosine, 1, 1e-5)
    state = {
        "state_dict": model.state_dict(),
        "epoch": 1,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(state, folder)
        resume_from_checkpoint(folder, model, optimizer, scheduler)
