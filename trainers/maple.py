"""MaPLe: multi-modal prompt learning (arXiv 2210.03117)."""

import copy

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import nn

from qprompt.prompted_clip import PromptedCLIP, Prompts
from qprompt.training.prompt_trainer import PromptTrainer, check_depth, hybrid_context


class MultiModalPromptLearner(nn.Module):
    """Text context vectors in the first `depth` layers; a linear layer each makes the image prompts of them.

    Of a text width D and an image width V: ctx and every compound_prompts_text.{i} are (n_ctx, D); the weights of
    proj and of every compound_prompt_projections.{i} are (V, D).
    """

    def __init__(self, context, depth, image_width):
        super().__init__()
        width = context.shape[-1]
        # Drawn in upstream's order: the same seed gives the same start.
        self.proj = nn.Linear(width, image_width)
        self.ctx = nn.Parameter(context)
        deep = [nn.init.normal_(torch.empty_like(context), std=0.02) for _ in range(depth - 1)]
        self.compound_prompts_text = nn.ParameterList(deep)
        projection = nn.Linear(width, image_width)
        self.compound_prompt_projections = nn.ModuleList(copy.deepcopy(projection) for _ in deep)

    def forward(self):
        context, deep = self.ctx, list(self.compound_prompts_text)
        projected = [project(each) for project, each in zip(self.compound_prompt_projections, deep, strict=True)]
        return Prompts(context, deep, self.proj(context), projected)


@TRAINER_REGISTRY.register()
class MaPLe(PromptTrainer):
    """Prompts in both branches, coupled: the image prompts are projections of the text prompts."""

    node = "MAPLE"
    registered_name = "MultiModalPromptLearner"
    prompts_images = True
    binding_settings = ("CTX_INIT",)

    def registered_module(self):
        return self.model

    def is_learned(self, key):
        return key.startswith("prompt_learner.") and super().is_learned(key)

    def build_prompted_clip(self, clip_model, classnames):
        c = self.settings
        check_depth(clip_model, c.PROMPT_DEPTH, "TRAINER.MAPLE.PROMPT_DEPTH", image=True, text=True)
        context, layout = hybrid_context(clip_model, classnames, c.N_CTX, c.CTX_INIT)
        learner = MultiModalPromptLearner(context, c.PROMPT_DEPTH, clip_model.visual.transformer.width)
        return PromptedCLIP(clip_model, layout, learner, self.cfg.MODEL.LOGIT_SCALE)
