"""The data sets and trainers of a checkout, which are not in the installed package."""

import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import qprompt
from qprompt.errors import UserError, did_you_mean
from qprompt.training.quantized import register_methods

_PACKAGES = ("datasets", "trainers")


def find_project() -> Path:
    """Return the folder with datasets/ and trainers/: the working directory, or else that of the package.

    Raises:
        UserError: Neither has them.
    """
    for folder in (Path.cwd(), Path(qprompt.__file__).resolve().parent.parent):
        if all((folder / package).is_dir() for package in _PACKAGES):
            return folder
    raise UserError("no trainers/ and datasets/ in this folder: run this command in the folder that contains train.py.")


def register_project(folder: Path) -> None:
    """Register the modules of datasets/ and trainers/, and X and QX for every other method in qprompt/prompts.

    The engine must be active. Calling it again changes nothing.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    for package in _PACKAGES:
        for module in iter_modules([str(folder / package)]):
            import_module(f"{package}.{module.name}")
    register_methods()


def learns(trainer: str) -> bool:
    """Return whether a trainer learns anything; False for zero-shot ones. The project must be registered.

    Raises:
        UserError: There is no trainer of that name.
    """
    from dassl.engine import TRAINER_REGISTRY

    known = sorted(TRAINER_REGISTRY.registered_names())
    if trainer not in known:
        raise UserError(f"no trainer {trainer!r}.{did_you_mean(trainer, known)} There are: {', '.join(known)}.")
    return getattr(TRAINER_REGISTRY.get(trainer), "learns", True)
