"""QCoOp: CoOp with a quantized context (arXiv 2407.10704)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.training.quantized import QuantizedPrompts
from trainers.coop import CoOp


@TRAINER_REGISTRY.register()
class QCoOp(QuantizedPrompts, CoOp):
    """CoOp whose context vectors have 2^b levels: with b = 1, 2,048 weights are stored in 260 bytes."""
