"""Deep prompts in the two branches, independent of each other (IVLP, VPT)."""

import torch
from torch import Tensor, nn

from qprompt.backbones import ClipModel
from qprompt.prompted_clip.layout import PromptLayout
from qprompt.prompted_clip.model import PromptedCLIP, Prompts


class IndependentlyPromptedCLIP(PromptedCLIP):
    """CLIP with learned vectors in the first layers of its text branch, its image branch, or both.

    The learned tensors carry the names that MaPLe's repository gives them:
    prompt_learner.ctx, text_encoder.transformer.resblocks.{i}.VPT_shallow (both (n_text, D)), image_encoder.VPT and
    image_encoder.transformer.resblocks.{i}.VPT_shallow (both (n_image, V)), i from 1 to the depth - 1.

    Args:
        context: (n_text, D) text prompts of the first layer; None leaves the text branch alone.
        text_depth, image_depth: how many layers are prompted; 0 leaves the image branch alone.
        n_image: number of image prompts.
    """

    def __init__(
        self,
        clip_model: ClipModel,
        layout: PromptLayout,
        context: Tensor | None = None,
        text_depth: int = 0,
        n_image: int = 0,
        image_depth: int = 0,
        logit_scale: float = 0.0,
    ):
        super().__init__(clip_model, layout, logit_scale=logit_scale)
        self.prompt_learner = nn.Module()
        self.text_encoder = nn.Module()
        if context is not None:
            self.prompt_learner.ctx = nn.Parameter(context)
            _add_deep(self.text_encoder, text_depth, context.shape)
        self.image_encoder = nn.Module()
        if image_depth:
            shape = torch.Size((n_image, clip_model.visual.transformer.width))
            self.image_encoder.VPT = nn.Parameter(_noise(shape))
            _add_deep(self.image_encoder, image_depth, shape)

    def prompts(self) -> Prompts:
        return Prompts(
            getattr(self.prompt_learner, "ctx", None),
            _deep(self.text_encoder),
            getattr(self.image_encoder, "VPT", None),
            _deep(self.image_encoder),
        )


def _noise(shape: torch.Size) -> Tensor:
    return nn.init.normal_(torch.empty(shape), std=0.02)


def _add_deep(encoder: nn.Module, depth: int, shape: torch.Size) -> None:
    encoder.transformer = nn.Module()
    encoder.transformer.resblocks = nn.ModuleDict()
    for number in range(1, depth):
        block = encoder.transformer.resblocks[str(number)] = nn.Module()
        block.VPT_shallow = nn.Parameter(_noise(shape))


def _deep(encoder: nn.Module) -> list[Tensor]:
    if not hasattr(encoder, "transformer"):
        return []
    return [block.VPT_shallow for block in encoder.transformer.resblocks.values()]  # type: ignore[union-attr,operator]
