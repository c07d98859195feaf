"""CoCoOp: conditional prompt learning for vision-language models (arXiv 2203.05557)."""

from collections import OrderedDict

from dassl.engine import TRAINER_REGISTRY
from torch import nn

from qprompt.prompted_clip import ConditionalCLIP, Prompts, initial_context, prompt_layout
from qprompt.training.prompt_trainer import PromptTrainer
from trainers.coop import context_words


class ConditionalPromptLearner(nn.Module):
    """A context, and a small network that shifts it by what an image shows.

    Of feature width E and text width D: ctx (n_ctx, D); meta_net maps (B, E) to (B, D) through E // 16 units.
    """

    def __init__(self, context, feature_width):
        super().__init__()
        width, hidden = context.shape[-1], feature_width // 16
        self.ctx = nn.Parameter(context)
        self.meta_net = nn.Sequential(
            OrderedDict(linear1=nn.Linear(feature_width, hidden), relu=nn.ReLU(), linear2=nn.Linear(hidden, width))
        )

    def forward(self, image_features):
        shift = self.meta_net(image_features)  # (B, D)
        return Prompts(text=(self.ctx + shift[:, None])[:, None])  # (B, 1, n_ctx, D)


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    """CoOp whose context depends on the image."""

    node = "COCOOP"
    conditional = True

    def build_prompted_clip(self, clip_model, classnames):
        c = self.settings
        words, n_context = context_words(c.CTX_INIT, c.N_CTX)
        context = initial_context(clip_model, n_context, words if c.CTX_INIT else "")
        learner = ConditionalPromptLearner(context, clip_model.visual.output_dim)
        layout = prompt_layout(clip_model, classnames, words, n_context)
        return ConditionalCLIP(clip_model, layout, learner, self.cfg.MODEL.LOGIT_SCALE)
