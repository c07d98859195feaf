"""IVLP: independent vision-language prompting, the baseline of MaPLe's repository (arXiv 2210.03117)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.prompts.independent import IVLP as METHOD
from qprompt.training.prompt_trainer import PromptTrainer


@TRAINER_REGISTRY.register()
class IVLP(PromptTrainer):
    """Deep prompts in both branches, independent of each other."""

    method = METHOD
