"""IVLP and VPT: deep prompts in the text and the image branch, independent of each other.

IVLP is the baseline of MaPLe's repository (arXiv 2210.03117), VPT prompts the image branch alone (arXiv 2203.12119).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qprompt.backbones import ClipModel
from qprompt.errors import UserError
from qprompt.prompted_clip import PromptedCLIP, PromptLayout, Prompts, prompt_layout
from qprompt.prompts.initial import check_depth, hybrid_context, numbered, restore_
from qprompt.prompts.method import Method, register

WORDS = "a photo of a"
DEEP = "{}_encoder.transformer.resblocks.{{}}.VPT_shallow"  # upstream's name; layers count from 1


class IndependentPrompts(nn.Module):
    """Learned vectors in the first layers of the text branch, of the image branch, or of both.

    The tensors carry the names that MaPLe's repository gives them: prompt_learner.ctx and
    text_encoder.transformer.resblocks.{i}.VPT_shallow (n_text, D), image_encoder.VPT and
    image_encoder.transformer.resblocks.{i}.VPT_shallow (n_image, V), with i from 1 to the depth - 1.

    Args:
        context: (n_text, D) text prompts of the first layer; None leaves the text branch unprompted.
        text_depth: number of prompted text layers.
        image: (n_image, V), the shape of the image prompts.
        image_depth: number of prompted image layers; 0 leaves the image branch unprompted.
    """

    def __init__(self, context: Tensor | None, text_depth: int, image: tuple[int, int] = (0, 0), image_depth: int = 0):
        super().__init__()
        self.prompt_learner, self.text_encoder, self.image_encoder = nn.Module(), nn.Module(), nn.Module()
        if context is not None:
            self.prompt_learner.ctx = nn.Parameter(context)
            _add_deep(self.text_encoder, text_depth, context.shape)
        if image_depth:
            self.image_encoder.VPT = nn.Parameter(_noise(image))
            _add_deep(self.image_encoder, image_depth, image)

    def forward(self) -> Prompts:
        return independent_prompts(self)


class IndependentlyPromptedCLIP(PromptedCLIP):
    """CLIP with `IndependentPrompts`, whose parts become parts of the model: its names are upstream's."""

    def __init__(self, clip_model: ClipModel, layout: PromptLayout, learner: nn.Module, logit_scale: float = 0.0):
        super().__init__(clip_model, layout, logit_scale=logit_scale)
        for name, part in learner.named_children():
            setattr(self, name, part)

    def prompts(self) -> Prompts:
        return independent_prompts(self)


def independent_prompts(module: nn.Module) -> Prompts:
    """Collect the prompts from the parts of `IndependentPrompts`."""
    text, image = module.text_encoder, module.image_encoder
    return Prompts(getattr(module.prompt_learner, "ctx", None), _deep(text), getattr(image, "VPT", None), _deep(image))


def _noise(shape: Sequence[int]) -> Tensor:
    return nn.init.normal_(torch.empty(tuple(shape)), std=0.02)


def _add_deep(encoder: nn.Module, depth: int, shape: Sequence[int]) -> None:
    encoder.transformer = nn.Module()
    encoder.transformer.resblocks = nn.ModuleDict()
    for number in range(1, depth):
        block = encoder.transformer.resblocks[str(number)] = nn.Module()
        block.VPT_shallow = nn.Parameter(_noise(shape))


def _deep(encoder: Any) -> list[Tensor]:
    if not hasattr(encoder, "transformer"):
        return []
    return [block.VPT_shallow for block in encoder.transformer.resblocks.values()]


def initialize_ivlp(clip_model: ClipModel, classnames: Sequence[str], settings: Any) -> tuple[nn.Module, PromptLayout]:
    """Start the first text layer from the words of CTX_INIT, everything else at random."""
    check_depth(clip_model, settings.PROMPT_DEPTH_TEXT, "TRAINER.IVLP.PROMPT_DEPTH_TEXT", text=True)
    image, depth = (0, 0), settings.PROMPT_DEPTH_VISION
    if depth > 0:
        check_depth(clip_model, depth, "TRAINER.IVLP.PROMPT_DEPTH_VISION", image=True)
        image = settings.N_CTX_VISION, clip_model.visual.transformer.width
    context, layout = hybrid_context(clip_model, classnames, settings.N_CTX_TEXT, settings.CTX_INIT)
    return IndependentPrompts(context, settings.PROMPT_DEPTH_TEXT, image, depth), layout


def initialize_vpt(clip_model: ClipModel, classnames: Sequence[str], settings: Any) -> tuple[nn.Module, PromptLayout]:
    """Start at random; the text prompt is hand-written (upstream fixes it and does not read CTX_INIT)."""
    depth = settings.PROMPT_DEPTH_VISION
    check_depth(clip_model, depth, "TRAINER.VPT.PROMPT_DEPTH_VISION", image=True)
    image = settings.N_CTX_VISION, clip_model.visual.transformer.width
    return IndependentPrompts(None, 0, image, depth), prompt_layout(clip_model, classnames, WORDS, 0)


def restore(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the learner of stored tensors."""
    context, image = tensors.get("ctx"), tensors.get("image_encoder.VPT")
    depths = [1 + len(numbered(tensors, DEEP.format(branch), first=1)) for branch in ("text", "image")]
    if image is not None and image.dim() != 2:
        raise UserError(f"its image_encoder.VPT has shape {tuple(image.shape)}, expected (vectors, width)")
    shape = (0, 0) if image is None else (image.shape[0], image.shape[1])
    learner = IndependentPrompts(context, depths[0], shape, 0 if image is None else depths[1])
    return restore_(learner, tensors)


IVLP = register(
    Method(
        name="IVLP",
        summary="independent deep prompts in both branches",
        settings={
            "N_CTX_VISION": 2,
            "N_CTX_TEXT": 2,
            "CTX_INIT": WORDS,
            "PREC": "fp16",
            "PROMPT_DEPTH_VISION": 9,
            "PROMPT_DEPTH_TEXT": 9,
        },
        initialize=initialize_ivlp,
        restore=restore,
        model=IndependentlyPromptedCLIP,
        quantized=("ctx", "*_encoder.*VPT*"),
        upstream_fp16=("ctx",),
        bits=4,  # ours, by the rule of QMaPLe: the paper has neither QIVLP nor QVPT
        signature=("ctx", "*VPT*"),
        folder="VLPromptLearner",
        whole_model=True,
        learned=("prompt_learner.*", "*VPT*"),
        binding=("CTX_INIT",),
        words=WORDS,
        same_tensors=("QPromptSRC",),
        prompts_images=lambda settings: settings.PROMPT_DEPTH_VISION > 0,
    )
)

VPT = register(
    Method(
        name="VPT",
        summary="deep prompts in the image branch; the text prompt is hand-written",
        settings={"N_CTX_VISION": 2, "CTX_INIT": WORDS, "PREC": "fp16", "PROMPT_DEPTH_VISION": 1},
        initialize=initialize_vpt,
        restore=restore,
        model=IndependentlyPromptedCLIP,
        quantized=("image_encoder.*VPT*",),
        upstream_fp32_model=True,
        bits=4,
        signature=("*VPT*",),
        whole_model=True,
        learned=("*VPT*",),
        words=WORDS,
        prompts_images=lambda settings: True,
    )
)
