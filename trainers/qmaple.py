"""QMaPLe: MaPLe with quantized prompts (arXiv 2407.10704)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.training.quantized import QuantizedPrompts
from trainers.maple import MaPLe


@TRAINER_REGISTRY.register()
class QMaPLe(QuantizedPrompts, MaPLe):
    """MaPLe whose prompts and projection weights have 2^b levels, one codebook per tensor; biases stay fp16."""
