"""QCoOp: CoOp with a quantized context (arXiv 2407.10704)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.training.quantized import QuantizedPrompts
from trainers.coop import CoOp


@TRAINER_REGISTRY.register()
class QCoOp(QuantizedPrompts, CoOp):
    """CoOp whose context vectors take 2^b values: b = 1 stores 2,048 weights in 260 bytes."""

    quantized = ("prompt_learner.ctx",)
