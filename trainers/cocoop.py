"""CoCoOp: conditional prompt learning for vision-language models (arXiv 2203.05557)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.prompts.cocoop import COCOOP
from qprompt.training.prompt_trainer import PromptTrainer


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    """CoOp whose context depends on the image."""

    method = COCOOP
