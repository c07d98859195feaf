"""MaPLe: multi-modal prompt learning (arXiv 2210.03117)."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qprompt.backbones import ClipModel
from qprompt.prompted_clip import PromptLayout, Prompts
from qprompt.prompts.initial import check_depth, hybrid_context, numbered, require, restore_
from qprompt.prompts.method import Method, register


class MultiModalPromptLearner(nn.Module):
    """Text context vectors in the first `depth` layers; a linear layer per depth projects them to image prompts.

    With text width D and image width V: ctx and every compound_prompts_text.{i} are (n_ctx, D); the weights of proj and
    of every compound_prompt_projections.{i} are (V, D).

    Args:
        context: (n_ctx, D) of the first layer.
        depth: number of prompted layers.
        image_width: V.
    """

    def __init__(self, context: Tensor, depth: int, image_width: int):
        super().__init__()
        width = context.shape[-1]
        # Drawn in upstream's order: the same seed gives the same start.
        self.proj = nn.Linear(width, image_width)
        self.ctx = nn.Parameter(context)
        deep = [nn.init.normal_(torch.empty_like(context), std=0.02) for _ in range(depth - 1)]
        self.compound_prompts_text = nn.ParameterList(deep)
        projection = nn.Linear(width, image_width)
        self.compound_prompt_projections = nn.ModuleList(copy.deepcopy(projection) for _ in deep)

    def forward(self) -> Prompts:
        context, deep = self.ctx, list(self.compound_prompts_text)
        projected = [project(each) for project, each in zip(self.compound_prompt_projections, deep, strict=True)]
        return Prompts(context, deep, self.proj(context), projected)


def initialize(clip_model: ClipModel, classnames: Sequence[str], settings: Any) -> tuple[nn.Module, PromptLayout]:
    """Start the first layer from the words of CTX_INIT, deeper ones at random."""
    check_depth(clip_model, settings.PROMPT_DEPTH, "TRAINER.MAPLE.PROMPT_DEPTH", image=True, text=True)
    context, layout = hybrid_context(clip_model, classnames, settings.N_CTX, settings.CTX_INIT)
    return MultiModalPromptLearner(context, settings.PROMPT_DEPTH, clip_model.visual.transformer.width), layout


def restore(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the learner of stored tensors."""
    context, projection, _ = require(tensors, "ctx", "proj.weight", "proj.bias")
    depth = 1 + len(numbered(tensors, "compound_prompts_text.{}"))
    return restore_(MultiModalPromptLearner(context.float(), depth, len(projection)), tensors)


MAPLE = register(
    Method(
        name="MaPLe",
        summary="prompts in both branches; the image prompts are projections of the text prompts",
        settings={"N_CTX": 2, "CTX_INIT": "a photo of a", "PREC": "fp16", "PROMPT_DEPTH": 9},
        initialize=initialize,
        restore=restore,
        quantized=("ctx", "compound_prompts_text.*", "proj.weight", "compound_prompt_projections.*.weight"),
        half=("proj.bias", "compound_prompt_projections.*.bias"),
        upstream_fp16=("ctx", "proj.*"),
        bits=4,
        signature=("ctx", "proj.weight"),
        folder="MultiModalPromptLearner",
        whole_model=True,
        learned=("prompt_learner.*",),
        binding=("CTX_INIT",),
        words="a photo of a",
        prompts_images=lambda settings: True,
    )
)
