"""What is known of a prompt-learning method, in one place: `Method`, and the registry of methods."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from qprompt.backbones import ClipModel
from qprompt.errors import UserError, did_you_mean
from qprompt.prompted_clip import PromptedCLIP, PromptLayout
from qprompt.quantization.config import QuantConfig

LEARNER = "prompt_learner."
# Token embeddings of the classes: upstream's checkpoints hold them, here they are computed for the classes at hand.
RECOMPUTED = ("token_prefix", "token_suffix")


def _never(settings: Any) -> bool:
    return False


def _any_settings(settings: Any) -> None:
    pass


@dataclass(frozen=True)
class Method:
    """A prompt-learning method. Names of tensors are given without ``prompt_learner.``.

    Attributes:
        name: of the trainer, e.g. "CoOp"; "QCoOp" is its quantized version, "coop" the key in `qprompt unpack --as`.
        summary: one line for help texts.
        settings: default values of the config node ``TRAINER.<NODE>``.
        initialize: (CLIP model, class names, settings) -> a fresh learner, and the prompts of the classes. It draws
            random numbers in upstream's order, so the same seed gives the same start.
        restore: tensors by name -> the learner with these tensors; sizes are read from them.
        model: (CLIP model, layout, learner, logit scale) -> the classifier.
        quantized: patterns of the tensors that are quantized.
        half: patterns of the tensors that are stored in half precision.
        upstream_fp16: patterns of the parameters that upstream's code trains in fp16 with PREC fp16; others are fp32.
        upstream_fp32_model: whether upstream's code computes in fp32 with PREC fp16 too, with prompts rounded to fp16.
        bits: the default number of bits of the quantized version: the paper's, or by its rule.
        signature: patterns; a checkpoint in which each of them occurs is this method's, unless a longer one fits.
        folder: of the checkpoints, upstream's name.
        whole_model: whether upstream's checkpoints hold the whole model, hence names with ``prompt_learner.``.
        learned: patterns of checkpoint keys that are learned; other keys of upstream's files belong to CLIP.
        binding: settings that a checkpoint must share with the run that loads it.
        words: of the prompt file's default prompt, where trainers do not record them.
        same_tensors: third-party trainers that learn the same tensors.
        unused: patterns of further tensors in their checkpoints, which they do not train.
        check: (settings) -> None; UserError for settings that contradict each other.
        prompts_images: (settings) -> whether image features depend on what is learned.
        class_specific: (settings) -> whether the learned tensors belong to particular classes.
        conditional: whether text features depend on the image.
    """

    name: str
    summary: str
    settings: Mapping[str, Any]
    initialize: Callable[[ClipModel, Sequence[str], Any], tuple[nn.Module, PromptLayout]]
    restore: Callable[[Mapping[str, Tensor]], nn.Module]
    quantized: tuple[str, ...]
    signature: tuple[str, ...]
    bits: int
    model: Callable[[ClipModel, PromptLayout, nn.Module, float], PromptedCLIP] = PromptedCLIP
    half: tuple[str, ...] = ()
    upstream_fp16: tuple[str, ...] = ()
    upstream_fp32_model: bool = False
    folder: str = "prompt_learner"
    whole_model: bool = False
    learned: tuple[str, ...] = ("*",)
    binding: tuple[str, ...] = ()
    words: str = ""
    same_tensors: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    check: Callable[[Any], None] = _any_settings
    prompts_images: Callable[[Any], bool] = _never
    class_specific: Callable[[Any], bool] = _never
    conditional: bool = field(default=False)

    @property
    def key(self) -> str:
        """The name in lower case: ``qprompt unpack --as coop``."""
        return self.name.lower()

    @property
    def node(self) -> str:
        """The name of the config node: ``TRAINER.COOP``."""
        return self.name.upper()

    @property
    def trainer(self) -> str:
        """The name of the quantized trainer."""
        return f"Q{self.name}"

    @property
    def quantized_parameters(self) -> tuple[str, ...]:
        """Patterns of the parameters of the model that are quantized."""
        return tuple(name if "_encoder." in name else LEARNER + name for name in self.quantized)

    def build(self, clip_model: ClipModel, classnames: Sequence[str], settings: Any, logit_scale: float = 0.0):
        """Return CLIP with a fresh learner of this method.

        Args:
            clip_model: frozen.
            classnames: of the C classes.
            settings: the config node ``TRAINER.<NODE>``.
            logit_scale: factor of the cosine similarities; 0 is the model's own.
        """
        learner, layout = self.initialize(clip_model, classnames, settings)
        return self.model(clip_model, layout, learner, logit_scale)

    def checkpoint_module(self, model: PromptedCLIP) -> nn.Module:
        """Return the module whose state dict has the keys of upstream's checkpoints."""
        if self.whole_model:
            return model
        assert model.prompt_learner is not None
        return model.prompt_learner

    def checkpoint_key(self, name: str) -> str:
        """Return the key of a tensor in upstream's checkpoint."""
        return name if "_encoder." in name or not self.whole_model else LEARNER + name

    def is_learned(self, key: str) -> bool:
        """Return whether `key` of an upstream checkpoint is a learned tensor, not part of CLIP or of a class name."""
        return key.rpartition(".")[2] not in RECOMPUTED and any(fnmatchcase(key, p) for p in self.learned)

    def names(self, keys: Iterable[str]) -> list[str]:
        """Return those of `keys` that are tensors of this method."""
        return [key for key in keys if any(fnmatchcase(key, p) for p in (*self.quantized, *self.half))]

    def is_upstream_fp16(self, parameter: str) -> bool:
        """Return whether upstream's code trains a parameter of the model in fp16 with PREC fp16."""
        return any(fnmatchcase(parameter.removeprefix(LEARNER), pattern) for pattern in self.upstream_fp16)

    def is_quantized(self, name: str) -> bool:
        """Return whether the quantized version of this method quantizes the tensor `name`."""
        return any(fnmatchcase(name, pattern) for pattern in self.quantized)


_METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Add a method to the registry; ValueError if its name is taken."""
    if method.key in _METHODS:
        raise ValueError(f"the method {method.name!r} is registered already")
    _METHODS[method.key] = method
    return method


def methods() -> tuple[Method, ...]:
    """Return all methods."""
    return tuple(_METHODS.values())


def get_method(name: str) -> Method:
    """Return the method of that name, in any case; UserError lists the names if there is none."""
    if name.lower() not in _METHODS:
        raise UserError(f"there is no method {name!r}, expected {', '.join(_METHODS)}.{did_you_mean(name, _METHODS)}")
    return _METHODS[name.lower()]


def find_method(names: Iterable[str]) -> Method | None:
    """Return the method that learns tensors of these names (without ``prompt_learner.``); None if none does."""
    names = list(names)
    fits = [m for m in methods() if all(any(fnmatchcase(name, p) for name in names) for p in m.signature)]
    return max(fits, key=lambda m: len(m.signature), default=None)


def identify(names: Iterable[str], called: str = "") -> Method:
    """Return the method whose prompts have exactly these names (without ``prompt_learner.``).

    Args:
        names: of all tensors.
        called: the trainer that a file names, or "".

    Raises:
        UserError: no method is known, one tensor has no place in it, or the file names another trainer.
    """
    names = list(names)
    method = find_method(names)
    known = ", ".join(sorted(m.name for m in methods()))
    if method is None:
        raise UserError(f"no prompts of {known} are in it, but {', '.join(names[:6]) or 'nothing'}.")
    used = set(method.names(names))
    others = [n for n in names if n not in used and not any(fnmatchcase(n, p) for p in method.unused)]
    if others:
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        raise UserError(
            f"it holds {', '.join(others[:4])}{more}, which {method.name} does not have: it belongs to another method "
            f"than {known}. 'qprompt unpack FILE --output-dir DIR' gives a launched run's prompt to its own trainer."
        )
    plain = {name.removeprefix("Q") for name in (method.trainer, *method.same_tensors)}
    if called and called.removeprefix("Q") not in plain:
        raise UserError(
            f"it holds prompts of {called}, which is not one of {known} or their kin ({', '.join(sorted(plain))}). "
            "'qprompt unpack FILE --output-dir DIR' gives them to their own trainer."
        )
    return method


def starting_bits(trainer: str) -> int:
    """Return the default of ``TRAINER.QUANT.BITS`` for a quantized trainer: the bits of its method, else 1."""
    found = (m.bits for m in methods() if trainer in (m.trainer, *m.same_tensors))
    return next(found, QuantConfig.bits)
