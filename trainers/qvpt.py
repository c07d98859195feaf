"""QVPT: visual prompts, quantized by the rule of QMaPLe (ours: the paper has no VPT)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.training.quantized import QuantizedPrompts
from trainers.vpt import VPT


@TRAINER_REGISTRY.register()
class QVPT(QuantizedPrompts, VPT):
    """VPT whose visual prompts take 2^b values, one codebook a tensor."""

    quantized = ("*VPT*",)
