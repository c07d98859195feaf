"""CoOp: learning to prompt for vision-language models (arXiv 2109.01134)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from qprompt.backbones import ClipModel
from qprompt.errors import UserError
from qprompt.prompted_clip import PromptLayout, Prompts, initial_context, prompt_layout
from qprompt.prompts.initial import context_words, require, restore_
from qprompt.prompts.method import Method, register


class PromptLearner(nn.Module):
    """Context vectors before, around or after the class name: ctx (n_ctx, D), or (C, n_ctx, D) if class-specific."""

    def __init__(self, context: Tensor):
        super().__init__()
        self.ctx = nn.Parameter(context)

    def forward(self) -> Prompts:
        return Prompts(text=self.ctx)


def initialize(clip_model: ClipModel, classnames: Sequence[str], settings: Any) -> tuple[nn.Module, PromptLayout]:
    """Start from the words of CTX_INIT, or at random."""
    words, n_context = context_words(settings.CTX_INIT, settings.N_CTX)
    given = words if settings.CTX_INIT else ""
    context = initial_context(clip_model, n_context, given, len(classnames) if settings.CSC else 0)
    position = settings.CLASS_TOKEN_POSITION
    layout = prompt_layout(clip_model, classnames, words, n_context, position, settings.CSC)
    return PromptLearner(context), layout


def restore(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the learner of stored tensors."""
    (context,) = require(tensors, "ctx")
    return restore_(PromptLearner(context), tensors)


def check(settings: Any) -> None:
    """Refuse class-specific contexts that start from given words."""
    if settings.CSC and settings.CTX_INIT:
        raise UserError(
            "TRAINER.COOP.CSC True starts from random contexts, CTX_INIT gives one context for all classes: "
            "type TRAINER.COOP.CTX_INIT '' or TRAINER.COOP.CSC False."
        )


COOP = register(
    Method(
        name="CoOp",
        summary="context optimization: the words around the class name are learned",
        settings={"N_CTX": 16, "CSC": False, "CTX_INIT": "", "PREC": "fp16", "CLASS_TOKEN_POSITION": "end"},
        initialize=initialize,
        restore=restore,
        check=check,
        class_specific=lambda settings: settings.CSC,
        binding=("CLASS_TOKEN_POSITION", "CSC"),
        quantized=("ctx",),
        upstream_fp16=("ctx",),
        bits=1,
        signature=("ctx",),
        same_tensors=("QKgCoOp", "QProGrad"),
        unused=("meta_net.linear1.*",),  # in KgCoOp's
    )
)
