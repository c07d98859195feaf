"""IVLP: independent vision-language prompting, the baseline of MaPLe's repository (arXiv 2210.03117)."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.prompted_clip import IndependentlyPromptedCLIP
from qprompt.training.prompt_trainer import PromptTrainer, check_depth, hybrid_context


@TRAINER_REGISTRY.register()
class IVLP(PromptTrainer):
    """Deep prompts in both branches that know nothing of each other."""

    node = "IVLP"
    registered_name = "VLPromptLearner"
    binding_settings = ("CTX_INIT",)

    @property
    def prompts_images(self):
        return self.settings.PROMPT_DEPTH_VISION > 0

    def registered_module(self):
        return self.model

    def is_learned(self, key):
        learned = key.startswith("prompt_learner.") or "VPT" in key
        return learned and super().is_learned(key)

    def build_prompted_clip(self, clip_model, classnames):
        c = self.settings
        check_depth(clip_model, c.PROMPT_DEPTH_TEXT, "TRAINER.IVLP.PROMPT_DEPTH_TEXT", text=True)
        if self.prompts_images:
            check_depth(clip_model, c.PROMPT_DEPTH_VISION, "TRAINER.IVLP.PROMPT_DEPTH_VISION", image=True)
        context, layout = hybrid_context(clip_model, classnames, c.N_CTX_TEXT, c.CTX_INIT)
        return IndependentlyPromptedCLIP(
            clip_model,
            layout,
            context,
            text_depth=c.PROMPT_DEPTH_TEXT,
            n_image=c.N_CTX_VISION,
            image_depth=c.PROMPT_DEPTH_VISION,
            logit_scale=self.cfg.MODEL.LOGIT_SCALE,
        )
