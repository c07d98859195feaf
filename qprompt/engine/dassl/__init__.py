"""The part of Dassl's public interface that prompt learning uses, written for current PyTorch.

Same names, signatures, log lines, random draws and learning rates as Dassl 0.6.3, so that trainers and data sets
written for Dassl import and run unchanged. `qprompt.engine.activate()` makes this package importable as ``dassl``.
Left out: the domain-adaptation, domain-generalization and semi-supervised trainers, their data sets, and the backbones.
"""

from ._left_out import refuse_left_out_modules

__version__ = "0.6.3"

if __name__ != "dassl":
    # Under two names there would be two registries, and a trainer registered in one is unknown to the other.
    raise ImportError("call qprompt.engine.activate(), then 'import dassl'")

refuse_left_out_modules()
