"""QMaPLe: MaPLe with quantized prompts and projections (arXiv 2407.10704)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.training.quantized import QuantizedPrompts
from trainers.maple import MaPLe


@TRAINER_REGISTRY.register()
class QMaPLe(QuantizedPrompts, MaPLe):
    """MaPLe whose prompts and projection weights take 2^b values, one codebook a tensor; biases stay fp16."""

    quantized = (
        "prompt_learner.ctx",
        "prompt_learner.compound_prompts_text.*",
        "prompt_learner.proj.weight",
        "prompt_learner.compound_prompt_projections.*.weight",
    )
