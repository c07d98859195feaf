"""The parts of real Dassl that this engine does not include: importing them works, using them names real Dassl.

Checkouts import trainers, data sets and operations of other fields beside what they use.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from qprompt.errors import UserError

from ._left_out_names import MODULES

REAL_DASSL = "https://github.com/KaiyangZhou/Dassl.pytorch"

_TRAINERS = """
M3SDA DAEL AdaBN SourceOnly MME DANN MCD SE ADDA CDAC DDAIG CrossGrad Vanilla DomainMix DAELDG
FixMatch MeanTeacher MixMatch SupBaseline EntMin
"""
_DATASETS = """
Office31 miniDomainNet VisDA17 CIFARSTL OfficeHome Digit5 DomainNet OfficeHomeDG Camelyon17 FMoW IWildCam
DigitsDG CIFAR10C CIFAR100C PACS DigitSingle VLCS STL10 SVHN CIFAR10 CIFAR100
"""
TRAINERS = frozenset(_TRAINERS.split())
DATASETS = frozenset(_DATASETS.split())


class LeftOut(UserError, ImportError):
    """The use of something that only real Dassl has."""


def advice(what: str) -> str:
    """Return one sentence: `what` is not included here, and how to get it."""
    return (
        f"{what} is not in the bundled engine; real Dassl has it: "
        f"pip install git+{REAL_DASSL} and run with QPROMPT_ENGINE=dassl (torch 2.5 or older)"
    )


def placeholder(module: str, name: str) -> type:
    """Return a class in place of a class or function of real Dassl: it can be a base, and calling it is an error."""

    def __new__(cls: type, *args: object, **options: object) -> object:
        raise LeftOut(advice(f"{module}.{name}"))

    bases: tuple[type, ...] = ()
    if module.startswith("dassl.engine.") and name in TRAINERS:
        bases = (importlib.import_module("dassl.engine.trainer").TrainerXU,)
    elif module.startswith("dassl.data.datasets.") and name in DATASETS:
        bases = (importlib.import_module("dassl.data.datasets").DatasetBase,)
    return type(name, bases, {"__new__": __new__, "__module__": module})


def module_getattr(module: str) -> Callable[[str], object]:
    """Return a ``__getattr__`` for a package: it finds names in those of its modules that are left out."""

    def __getattr__(name: str) -> object:
        for other, names in MODULES.items():
            if name in names and other.startswith(f"{module}."):
                return getattr(importlib.import_module(other), name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__


class _LeftOutModules(MetaPathFinder, Loader):
    """The last finder, so it is only asked for ``dassl.*`` modules that do not exist."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("dassl."):
            return None
        package = any(module.startswith(f"{fullname}.") for module in MODULES)
        if fullname in MODULES or package:
            return ModuleSpec(fullname, self, is_package=package)
        raise ModuleNotFoundError(
            f"neither the bundled engine nor Dassl 0.6.3 has {fullname}. If a changed Dassl has it, put that into the "
            "checkout: a folder that contains dassl/",
            name=fullname,
        )

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        own, below = MODULES.get(module.__name__, []), module_getattr(module.__name__)

        def __getattr__(name: str) -> object:
            if name not in own:
                return below(name)
            vars(module)[name] = found = placeholder(module.__name__, name)
            return found

        module.__getattr__ = __getattr__  # type: ignore[method-assign]


def refuse_left_out_modules() -> None:
    """Make imports of modules like ``dassl.engine.da`` work, and their use an error that names real Dassl."""
    if not any(isinstance(finder, _LeftOutModules) for finder in sys.meta_path):
        sys.meta_path.append(_LeftOutModules())
