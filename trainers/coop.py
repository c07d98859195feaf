"""CoOp: learning to prompt for vision-language models (arXiv 2109.01134)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.prompts.coop import COOP
from qprompt.training.prompt_trainer import PromptTrainer


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """Context optimization: the words around the class name are learned."""

    method = COOP
