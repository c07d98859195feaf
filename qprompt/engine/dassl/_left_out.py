"""Errors for the parts of real Dassl that this engine does not include: they name real Dassl."""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder

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


def advice(what: str) -> str:
    """Return one sentence: `what` is not included here, and how to get it."""
    return (
        f"{what} is not in the bundled engine; real Dassl has it: "
        f"pip install git+{REAL_DASSL} and run with QPROMPT_ENGINE=dassl (torch 2.5 or older)"
    )


def module_getattr(module: str, names: frozenset[str]) -> Callable[[str], object]:
    """Return a ``__getattr__`` for a module that explains that `names` are not included.

    It raises ImportError, because ``from module import name`` hides the message of an AttributeError.
    """

    def __getattr__(name: str) -> object:
        if name in names:
            raise ImportError(advice(f"{module}.{name}"))
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__


class _LeftOutModules(MetaPathFinder):
    """The last finder, so it is only asked for ``dassl.*`` modules that do not exist."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.startswith("dassl."):
            raise ModuleNotFoundError(advice(fullname), name=fullname)


def refuse_left_out_modules() -> None:
    """Make ``import dassl.modeling`` and similar imports raise an error that names real Dassl."""
    if not any(isinstance(finder, _LeftOutModules) for finder in sys.meta_path):
        sys.meta_path.append(_LeftOutModules())
