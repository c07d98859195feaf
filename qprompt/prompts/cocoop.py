"""CoCoOp: conditional prompt learning for vision-language models (arXiv 2203.05557)."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from qprompt.backbones import ClipModel
from qprompt.prompted_clip import ConditionalCLIP, PromptLayout, Prompts, initial_context, prompt_layout
from qprompt.prompts.initial import context_words, require, restore_
from qprompt.prompts.method import Method, register


class ConditionalPromptLearner(nn.Module):
    """Context vectors, and a small network that shifts them by what an image shows.

    Args:
        context: (n_ctx, D) of text width D.
        feature_width: E; the meta network maps (B, E) to (B, D).
        hidden: its number of hidden units, by default E // 16 as in the paper.
    """

    def __init__(self, context: Tensor, feature_width: int, hidden: int = 0):
        super().__init__()
        width, hidden = context.shape[-1], hidden or feature_width // 16
        self.ctx = nn.Parameter(context)
        self.meta_net = nn.Sequential(
            OrderedDict(linear1=nn.Linear(feature_width, hidden), relu=nn.ReLU(), linear2=nn.Linear(hidden, width))
        )

    def forward(self, image_features: Tensor) -> Prompts:
        shift = self.meta_net(image_features)  # (B, D)
        return Prompts(text=(self.ctx + shift[:, None])[:, None])  # (B, 1, n_ctx, D)


def initialize(clip_model: ClipModel, classnames: Sequence[str], settings: Any) -> tuple[nn.Module, PromptLayout]:
    """Start from the words of CTX_INIT, or at random."""
    words, n_context = context_words(settings.CTX_INIT, settings.N_CTX)
    context = initial_context(clip_model, n_context, words if settings.CTX_INIT else "")
    learner = ConditionalPromptLearner(context, clip_model.visual.output_dim)
    return learner, prompt_layout(clip_model, classnames, words, n_context)


def restore(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the learner of stored tensors."""
    context, first, *_ = require(
        tensors, "ctx", *(f"meta_net.linear{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias"))
    )
    hidden, feature_width = first.shape
    return restore_(ConditionalPromptLearner(context, feature_width, hidden), tensors)


COCOOP = register(
    Method(
        name="CoCoOp",
        summary="CoOp whose context depends on the image",
        settings={"N_CTX": 16, "CTX_INIT": "", "PREC": "fp16"},
        initialize=initialize,
        restore=restore,
        model=ConditionalCLIP,
        quantized=("ctx", "meta_net.*.weight"),
        half=("meta_net.*.bias",),
        upstream_fp16=("ctx", "meta_net.*"),
        bits=4,  # ours, by the rule of QMaPLe: the paper has no QCoCoOp
        # KgCoOp's checkpoints hold one layer of a meta network, which it does not train.
        signature=("ctx", "meta_net.linear2.weight"),
        conditional=True,
    )
)
