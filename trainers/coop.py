"""CoOp: learning to prompt for vision-language models (arXiv 2109.01134)."""

from dassl.engine import TRAINER_REGISTRY
from torch import nn

from qprompt.errors import UserError
from qprompt.prompted_clip import PromptedCLIP, Prompts, initial_context, prompt_layout
from qprompt.training.prompt_trainer import PromptTrainer


class PromptLearner(nn.Module):
    """Context vectors before, around or behind the class name: (n_ctx, D), or (C, n_ctx, D) class-specific."""

    def __init__(self, context):
        super().__init__()
        self.ctx = nn.Parameter(context)

    def forward(self):
        return Prompts(text=self.ctx)


def context_words(ctx_init, n_ctx):
    """The words that hold the context's place, and how many vectors it has: CTX_INIT decides when given."""
    words = ctx_init.replace("_", " ") or " ".join(["X"] * n_ctx)
    n_context = len(words.split(" "))
    print(f'Initial context: "{words}"\nNumber of context words (tokens): {n_context}')
    return words, n_context


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """Context optimization: the words around the class name are learned."""

    node = "COOP"
    binding_settings = ("CLASS_TOKEN_POSITION", "CSC")

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        if cfg.TRAINER.COOP.CSC and cfg.TRAINER.COOP.CTX_INIT:
            raise UserError(
                "TRAINER.COOP.CSC True starts from random contexts, CTX_INIT gives one context for all classes: "
                "type TRAINER.COOP.CTX_INIT '' or TRAINER.COOP.CSC False."
            )

    def build_prompted_clip(self, clip_model, classnames):
        c = self.settings
        words, n_context = context_words(c.CTX_INIT, c.N_CTX)
        given = words if c.CTX_INIT else ""
        context = initial_context(clip_model, n_context, given, len(classnames) if c.CSC else 0)
        layout = prompt_layout(clip_model, classnames, words, n_context, c.CLASS_TOKEN_POSITION, c.CSC)
        return PromptedCLIP(clip_model, layout, PromptLearner(context), self.cfg.MODEL.LOGIT_SCALE)

    def check_settings(self, run, path):
        super().check_settings(run, path)
        ours, theirs = list(self.dm.dataset.classnames), run.get("classnames")
        if self.settings.CSC and theirs is not None and theirs != ours:
            raise UserError(
                f"{path} holds class-specific contexts of {len(theirs)} other classes ({', '.join(theirs[:3])}, "
                f"...): they say nothing about {', '.join(ours[:3])}, .... Train with TRAINER.COOP.CSC False."
            )
