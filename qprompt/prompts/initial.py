"""Steps that methods share: initial context vectors, restored tensors, and checks against the backbone."""

import logging
import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from qprompt.backbones import ClipModel
from qprompt.errors import UserError
from qprompt.prompted_clip import PromptLayout, Prompts, initial_context, prompt_layout, token_counts

log = logging.getLogger(__name__)


def placeholder_words(n_context: int) -> str:
    """Return words of one token each that hold the places of `n_context` context vectors."""
    return " ".join(["X"] * n_context)


def context_words(ctx_init: str, n_ctx: int) -> tuple[str, int]:
    """Return the words before the class name and the number of context vectors, as CoOp reads its settings.

    CTX_INIT decides both if it is given; otherwise N_CTX placeholders stand for as many vectors.
    """
    words = ctx_init.replace("_", " ") or placeholder_words(n_ctx)
    n_context = len(words.split(" "))
    _report(words, n_context)
    if (tokens := token_counts([words])[0]) > n_context:  # CoOp's reading, which its published contexts do not show
        log.warning(
            "CTX_INIT %r has %d words, but %d tokens for CLIP: as in CoOp, the first %d tokens are learned, and the "
            "others stay as they are. Words of one token each, without punctuation, are learned completely.",
            words, n_context, tokens, n_context,
        )  # fmt: skip
    return words, n_context


_PLACEHOLDER = re.compile(r"\$\{?[A-Za-z_]\w*\}?|\{[^{}]*\}|[{}]|%s|<[^<>]*>|\[[^\[\]]*\]|\b(CLASS|CLASS_?NAME|CLS)\b")


def check_words(ctx_init: str, key: str) -> None:
    """Refuse initial words with a place for the class name, which would be learned, and blanks that count as words.

    Args:
        ctx_init: the words before the class name.
        key: the config key that holds them.
    """
    found = _PLACEHOLDER.search(ctx_init)
    if found:
        before = ctx_init[: found.start()].strip(" _")
        words = before or _PLACEHOLDER.sub("", ctx_init).strip(" _.,") or "a photo of a"
        raise UserError(
            f"{key} {ctx_init!r} contains {found[0]!r}, which would be learned as a word: it holds the words before "
            f"the class name, which is added. Type {key} {words!r}."
        )
    if (words := " ".join(ctx_init.replace("_", " ").split())) != ctx_init.replace("_", " "):
        raise UserError(
            f"{key} {ctx_init!r} has blanks at an end, or several between two words, which would count as words. "
            f"Type {key} {words!r}."
        )


def hybrid_context(
    clip_model: ClipModel, classnames: Sequence[str], n_ctx: int, ctx_init: str
) -> tuple[Tensor, PromptLayout]:
    """Return context vectors (n_ctx, D) and prompts as MaPLe and IVLP start them.

    Up to 4 vectors start from the first words of CTX_INIT, and its other words stay ("a photo of a" with 2 vectors:
    "[v1] [v2] of a <class>."). More are drawn at random.
    """
    words = ctx_init.replace("_", " ") if ctx_init and n_ctx <= 4 else ""
    context = initial_context(clip_model, n_ctx, words)
    words = words or placeholder_words(n_ctx)
    _report(words, n_ctx)
    return context, prompt_layout(clip_model, classnames, words, n_ctx)


def _report(words: str, n_context: int) -> None:
    log.info('Initial context: "%s"\nNumber of context words (tokens): %d', words, n_context)


def check_depth(clip_model: ClipModel, depth: int, key: str, image: bool = False, text: bool = False) -> None:
    """Raise UserError unless `depth` is between 1 and the number of layers of the prompted branches."""
    if image and not hasattr(clip_model.visual, "transformer"):
        raise UserError(f"{key} {depth} needs a ViT backbone; a ResNet supports text prompts only (CoOp, CoCoOp).")
    layers = [len(clip_model.transformer.resblocks)] if text else []
    layers += [len(clip_model.visual.transformer.resblocks)] if image else []
    if not 1 <= depth <= min(layers):
        raise UserError(f"{key} is {depth}; this backbone supports 1 to {min(layers)} (the number of prompted layers).")


def restore_(learner: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Put `tensors` (by name, any floating type) into a learner, which is frozen then.

    Raises:
        UserError: a tensor is missing, is not used, or has another shape.
    """
    own = {name.removeprefix("prompt_learner."): parameter for name, parameter in learner.named_parameters()}
    for problem, names in {
        "it lacks": [name for name in own if name not in tensors],
        "it also holds": [name for name in tensors if name not in own],
        "it holds another shape of": [n for n in own if n in tensors and own[n].shape != tensors[n].shape],
    }.items():
        if names:
            raise UserError(f"{problem} {', '.join(names)}")
    for name, parameter in own.items():
        parameter.data = tensors[name].float()
        parameter.requires_grad_(False)
    return learner


def numbered(tensors: Mapping[str, Tensor], pattern: str, first: int = 0) -> list[Tensor]:
    """Return the tensors ``pattern.format(i)`` for i = first, first + 1, ... up to the first that is missing."""
    found: list[Tensor] = []
    while (name := pattern.format(first + len(found))) in tensors:
        found.append(tensors[name])
    return found


def require(tensors: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    """Return tensors by name; UserError names those that are missing."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise UserError(f"it lacks {', '.join(missing)}")
    return [tensors[name] for name in names]


def check_prompts_fit(prompts: Prompts, clip_model: ClipModel) -> None:
    """Raise UserError if prompts do not fit the backbone: width of each branch, depth, kind of image branch."""
    text = [t for t in (prompts.text, *prompts.text_deep) if t is not None]
    image = [t for t in (prompts.image, *prompts.image_deep) if t is not None]
    if image and not hasattr(clip_model.visual, "transformer"):
        raise UserError("its prompts go into the image branch too, which takes a ViT backbone")
    branches = [("text", text, clip_model, clip_model.ln_final.weight.shape[0])]
    if image:
        branches.append(("image", image, clip_model.visual, clip_model.visual.transformer.width))
    for branch, tensors, encoder, width in branches:
        got = next((t.shape[-1] for t in tensors if t.shape[-1] != width), width)
        if got != width:
            raise UserError(f"its {branch} prompts have width {got}, the {branch} branch of this backbone has {width}")
        layers = len(encoder.transformer.resblocks)
        if len(tensors) > layers:
            raise UserError(f"its {branch} prompts are {len(tensors)} layers deep, the backbone has {layers}")
