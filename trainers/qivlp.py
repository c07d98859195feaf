"""QIVLP: independent vision-language prompts, quantized by the rule of QMaPLe (ours: the paper has no IVLP)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.training.quantized import QuantizedPrompts
from trainers.ivlp import IVLP


@TRAINER_REGISTRY.register()
class QIVLP(QuantizedPrompts, IVLP):
    """IVLP whose prompts in both branches have 2^b levels, one codebook per tensor."""
