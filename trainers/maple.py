"""MaPLe: multi-modal prompt learning (arXiv 2210.03117)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.prompts.maple import MAPLE
from qprompt.training.prompt_trainer import PromptTrainer


@TRAINER_REGISTRY.register()
class MaPLe(PromptTrainer):
    """Prompts in both branches; the image prompts are projections of the text prompts."""

    method = MAPLE
