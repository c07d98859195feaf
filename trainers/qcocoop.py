"""QCoCoOp: CoCoOp with quantized prompts, by the rule of QMaPLe (ours: the paper has no CoCoOp)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.training.quantized import QuantizedPrompts
from trainers.cocoop import CoCoOp


@TRAINER_REGISTRY.register()
class QCoCoOp(QuantizedPrompts, CoCoOp):
    """CoCoOp whose context and meta-network weights have 2^b levels; biases stay fp16."""
