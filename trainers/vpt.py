"""VPT: visual prompt tuning of CLIP's image branch, as in MaPLe's repository (arXiv 2203.12119)."""

import torch
from dassl.engine import TRAINER_REGISTRY

from qprompt.prompted_clip import IndependentlyPromptedCLIP, PromptLayout, tokenize
from qprompt.training.prompt_trainer import PromptTrainer, check_depth

WORDS = "a photo of a"  # upstream fixes them; its CTX_INIT is not read


@TRAINER_REGISTRY.register()
class VPT(PromptTrainer):
    """Deep prompts in the image branch; the text prompt is hand-written."""

    node = "VPT"
    prompts_images = True

    def registered_module(self):
        return self.model

    def is_learned(self, key):
        return "VPT" in key

    def build_prompted_clip(self, clip_model, classnames):
        c = self.settings
        check_depth(clip_model, c.PROMPT_DEPTH_VISION, "TRAINER.VPT.PROMPT_DEPTH_VISION", image=True)
        tokens = tokenize(clip_model, [f"{WORDS} {name.replace('_', ' ')}." for name in classnames])
        return IndependentlyPromptedCLIP(
            clip_model,
            PromptLayout(clip_model, tokens, torch.full_like(tokens, -1)),
            n_image=c.N_CTX_VISION,
            image_depth=c.PROMPT_DEPTH_VISION,
            logit_scale=self.cfg.MODEL.LOGIT_SCALE,
        )
