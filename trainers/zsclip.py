"""Zero-shot CLIP: hand-written prompts, nothing is learned."""

import logging

import torch
from dassl.engine import TRAINER_REGISTRY

from qprompt.data import templates
from qprompt.prompted_clip import PromptedCLIP, PromptLayout, normalize, tokenize
from qprompt.training.prompt_trainer import PromptTrainer

log = logging.getLogger("qprompt.trainers.zsclip")


class EnsembledCLIP(PromptedCLIP):
    """Zero-shot CLIP. The feature of a class is the mean of the normalized features of its templates.

    `layout` holds the prompts of all classes for the first template, then for the second, and so on.
    """

    def __init__(self, clip_model, layout, n_templates, logit_scale=0.0):
        super().__init__(clip_model, layout, logit_scale=logit_scale)
        self.n_templates = n_templates

    def encode_classes(self, prompts):
        features = super().encode_classes(prompts)  # (templates * C, E)
        if self.n_templates == 1:
            return features
        return normalize(features.unflatten(0, (self.n_templates, -1)).mean(dim=0))


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """CLIP with the hand-written template of the data set."""

    learns = False
    prompts_images = False

    def check_cfg(self, cfg):
        pass

    def build_model(self):
        self.precision = "fp32"
        clip_model = self.load_backbone()
        self.model = self.build_prompted_clip(clip_model, self.dm.dataset.classnames).to(self.device).eval()
        self.cache_features()

    def templates(self):
        """Return templates with {} for the class name."""
        return [templates.template(self.cfg.DATASET.NAME, self.cfg.DATASET.get("TEMPLATE", ""))]

    def build_prompted_clip(self, clip_model, classnames):
        chosen = self.templates()
        prompts = [prompt for template in chosen for prompt in templates.prompts(classnames, template)]
        log.info("Prompts: %s", prompts)
        tokens = tokenize(clip_model, prompts)
        layout = PromptLayout(clip_model, tokens, torch.full_like(tokens, -1))
        return EnsembledCLIP(clip_model, layout, len(chosen), self.cfg.MODEL.LOGIT_SCALE)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """CLIP with an ensemble of templates."""

    def templates(self):
        return templates.ensemble(self.cfg.DATASET.NAME, self.cfg.DATASET.get("TEMPLATE", ""))
