"""QPrompt: quantized prompts for CLIP (QCoOp and QMaPLe, arXiv 2407.10704).

The public names and their modules are listed in ``__init__.pyi``, which type checkers and editors read too. They load
on first use, so ``import qprompt`` stays light: it needs neither torch, Dassl, CLIP nor yacs.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__.append("__version__")
