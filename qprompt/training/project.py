"""Registering the data sets and trainers of the project, which are not modules of the package."""

import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from qprompt.errors import UserError, did_you_mean
from qprompt.runs.project import PACKAGES
from qprompt.training.registration import register_methods


def register_project(folder: Path) -> None:
    """Register the modules of datasets/ and trainers/, and X and QX for every other method in qprompt/prompts.

    The engine must be active. Calling it again changes nothing.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    for package in PACKAGES:
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
