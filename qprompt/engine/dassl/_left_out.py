"""What real Dassl has and this engine does not: asked for, it says where to get it."""

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
    """One sentence on `what` being missing here and how to have it."""
    return (
        f"{what} is not in the bundled engine; real Dassl has it: "
        f"pip install git+{REAL_DASSL} and run with QPROMPT_ENGINE=dassl (torch 2.5 or older)"
    )


def module_getattr(module: str, names: frozenset[str]) -> Callable[[str], object]:
    """A module's ``__getattr__`` that explains `names`. ImportError, so that ``from module import name`` shows it."""

    def __getattr__(name: str) -> object:
        if name in names:
            raise ImportError(advice(f"{module}.{name}"))
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__


class _LeftOutModules(MetaPathFinder):
    """Asked last for a ``dassl.*`` module, hence for one that nobody has."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith("dassl."):
            raise ModuleNotFoundError(advice(fullname), name=fullname)
        return


def refuse_left_out_modules() -> None:
    """Give ``import dassl.modeling`` and its like an error that names real Dassl."""
    if not any(isinstance(finder, _LeftOutModules) for finder in sys.meta_path):
        sys.meta_path.append(_LeftOutModules())
