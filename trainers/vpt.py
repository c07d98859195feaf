"""VPT: visual prompt tuning of CLIP's image branch, as in MaPLe's repository (arXiv 2203.12119)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.prompts.independent import VPT as METHOD
from qprompt.training.prompt_trainer import PromptTrainer


@TRAINER_REGISTRY.register()
class VPT(PromptTrainer):
    """Deep prompts in the image branch; the text prompt is hand-written."""

    method = METHOD
