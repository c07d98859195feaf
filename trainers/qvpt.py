"""QVPT: visual prompts, quantized by the rule of QMaPLe (ours: the paper has no VPT)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.training.quantized import QuantizedPrompts
from trainers.vpt import VPT


@TRAINER_REGISTRY.register()
class QVPT(QuantizedPrompts, VPT):
    """VPT whose visual prompts have 2^b levels, one codebook per tensor."""
