"""The part of Dassl's public interface that prompt learning uses, written for current PyTorch.

Names, signatures, log lines, random draws and learning rates are those of Dassl 0.6.3, so trainers and data sets
written for Dassl import and run unchanged. `qprompt.engine.activate()` makes this package importable as ``dassl``.
Not included: the domain-adaptation, domain-generalization and semi-supervised trainers, their data sets, and the
networks. They can be imported, and name real Dassl when they are used.
"""

from ._left_out import refuse_left_out_modules

__version__ = "0.6.3"

if __name__ != "dassl":
    # Imported under two names it would have two registries, and a trainer in one would be unknown to the other.
    raise ImportError("call qprompt.engine.activate(), then 'import dassl'")

refuse_left_out_modules()
