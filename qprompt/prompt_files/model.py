"""The prompts of a file in a CLIP model."""

from collections.abc import Sequence

import torch
from torch import nn

from qprompt.backbones import ClipModel
from qprompt.errors import UserError
from qprompt.prompt_files.format import PromptFile
from qprompt.prompted_clip import PromptedCLIP, Prompts, prompt_layout
from qprompt.prompts import Method, identify
from qprompt.prompts.initial import check_prompts_fit, placeholder_words
from qprompt.prompts.method import LEARNER


def prompted_clip(file: PromptFile, classnames: Sequence[str], clip_model: ClipModel) -> PromptedCLIP:
    """Return CLIP with the prompts of a file, in eval mode, on the device of `clip_model`.

    Raises:
        UserError: The prompts do not fit the model, or belong to other classes.
    """
    method, learner = restore_learner(file)
    prompts = _prompts_of(method, learner, clip_model)
    check_prompts_fit(prompts, clip_model)
    class_specific = not method.conditional and prompts.text is not None and prompts.text.dim() == 3
    if class_specific:
        _check_own_classes(prompts, classnames, file)
    n_context = 0 if prompts.text is None else prompts.text.shape[-2]
    # Third-party trainers do not record the words: those of MaPLe's repository start from these.
    default = method.words if method.words and n_context <= 4 else placeholder_words(n_context)
    words, position = file.about.get("words") or default, file.about.get("class_position", "end")
    layout = prompt_layout(clip_model, classnames, words, n_context, position, class_specific)
    model = method.model(clip_model, layout, learner, file.about.get("logit_scale", 0.0))
    return model.to(clip_model.token_embedding.weight.device).eval()


def _check_own_classes(prompts: Prompts, classnames: Sequence[str], file: PromptFile) -> None:
    assert prompts.text is not None
    own = file.about.get("classnames")
    if own is None or list(classnames) != own or len(own) != len(prompts.text):
        why = (
            "and it does not hold the names of their classes: evaluate them with train.py --eval-only"
            if own is None
            else f"for {len(prompts.text)} classes, which it names: they classify no others"
        )
        raise UserError(f"its contexts {tuple(prompts.text.shape)} are class-specific (CSC), {why}.")


def restore_learner(file: PromptFile) -> tuple[Method, nn.Module]:
    """Return the method of a prompt file and its learner with the stored tensors; UserError if none is known."""
    tensors = {name.removeprefix(LEARNER): stored.tensor() for name, stored in file.tensors.items()}
    method = identify(tensors, file.about.get("method", ""))
    try:
        return method, method.restore(tensors)
    except (IndexError, RuntimeError, ValueError, UserError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{reason} (its prompts are those of {method.trainer})") from None


def _prompts_of(method: Method, learner: nn.Module, clip_model: ClipModel) -> Prompts:
    """Return the prompts, for any image where they depend on it."""
    if not method.conditional:
        return learner()
    width = clip_model.visual.output_dim
    try:
        return learner(torch.zeros(1, width))
    except RuntimeError:
        raise UserError(f"its prompts depend on image features of another width than {width}") from None
