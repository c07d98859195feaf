"""Learned prompts in state dicts, by whose they are: upstream's, ours, plain or quantized."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor

from qprompt.errors import UserError
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.fake_quantize import FakeQuantize
from qprompt.quantization.quantizer_state import parse_extra_state


@dataclass(frozen=True)
class Kind:
    """A prompt learner by the names of its tensors, without ``prompt_learner.``"""

    method: str
    folder: str  # of its checkpoints
    prefix: str  # of its keys in upstream's checkpoints
    quantized: tuple[str, ...]
    half: tuple[str, ...]
    bits: int  # where none are given: of the paper, or by its rule
    others: tuple[str, ...] = ()  # trainers whose prompts are the same

    def names(self, keys: Mapping[str, Any]) -> list[str]:
        return [key for key in keys if any(fnmatchcase(key, p) for p in (*self.quantized, *self.half))]

    def upstream_key(self, name: str) -> str:
        """`name` in upstream's checkpoint: what is in an encoder there is named by that."""
        return name if "_encoder." in name else self.prefix + name


KINDS = {
    "coop": Kind("QCoOp", "prompt_learner", "", ("ctx",), (), 1),
    "cocoop": Kind("QCoCoOp", "prompt_learner", "", ("ctx", "meta_net.*.weight"), ("meta_net.*.bias",), 4),
    "maple": Kind(
        "QMaPLe",
        "MultiModalPromptLearner",
        "prompt_learner.",
        ("ctx", "compound_prompts_text.*", "proj.weight", "compound_prompt_projections.*.weight"),
        ("proj.bias", "compound_prompt_projections.*.bias"),
        4,
    ),
    "ivlp": Kind("QIVLP", "VLPromptLearner", "prompt_learner.", ("ctx", "*_encoder.*VPT*"), (), 4, ("QPromptSRC",)),
    "vpt": Kind("QVPT", "prompt_learner", "", ("image_encoder.*VPT*",), (), 4),
}


class Prompt(NamedTuple):
    weight: Tensor  # full precision
    fake: FakeQuantize | None  # as it was trained, where it was quantized


class Found(NamedTuple):
    kind: str
    prompts: dict[str, Prompt]
    quantized: list[str]

    @property
    def method(self) -> str:
        return KINDS[self.kind].method


def starting_bits(trainer: str) -> int:
    """`TRAINER.QUANT.BITS` of a quantized trainer where nothing sets it: those that its checkpoints are packed with."""
    return next((k.bits for k in KINDS.values() if trainer in (k.method, *k.others)), QuantConfig.bits)


def kind_of_state(state: Mapping[str, Any]) -> Kind:
    """Whose prompts a state dict holds; UserError where it holds none."""
    return KINDS[prompts_in(state).kind]


def kind_of(keys: Mapping[str, Any]) -> str:
    """A name in `KINDS`, from names without ``prompt_learner.``; "coop" where nothing says otherwise."""
    if "proj.weight" in keys:
        return "maple"
    if "meta_net.linear2.weight" in keys:  # KgCoOp's checkpoints hold one layer of it, which does not train
        return "cocoop"
    if any("VPT" in key for key in keys):
        return "ivlp" if "ctx" in keys else "vpt"
    return "coop"


def prompts_in(state: Mapping[str, Any]) -> Found:
    """The prompts of a state dict; UserError where none of `KINDS` is in it."""
    state = {str(key).removeprefix("prompt_learner."): value for key, value in state.items()}
    prompts = {key: Prompt(value, None) for key, value in state.items() if isinstance(value, Tensor)}
    for key in state:
        if key.endswith(".original") and "parametrizations." in key:
            name, prompt = _quantized(state, key)
            prompts[name] = prompt
    kind = kind_of(prompts)
    names = KINDS[kind].names(prompts)
    if not names:
        some = ", ".join(list(state)[:6]) or "nothing"
        raise UserError(
            f"no prompts of CoOp, CoCoOp, MaPLe, IVLP or VPT are in it (no 'ctx', no 'VPT'); it has: {some}"
        )
    return Found(
        kind,
        {name: prompts[name] for name in names},
        [name for name in names if any(fnmatchcase(name, pattern) for pattern in KINDS[kind].quantized)],
    )


def from_kind(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Tensors of a prompt file under the keys of upstream's checkpoint of that kind."""
    plain = {key.removeprefix("prompt_learner."): value for key, value in tensors.items()}
    own = kind_of(plain)
    if not KINDS[own].names(plain):
        raise UserError(f"it holds {', '.join(list(plain)[:6])}, not the prompts of {KINDS[kind].method}.")
    if own != kind:
        hint = f"Use --as {own}"
        if (own, kind) == ("maple", "ivlp"):
            hint = "'qprompt export --projected' makes independent prompts of them"
        raise UserError(f"it holds prompts of {KINDS[own].method}, not those of {KINDS[kind].method}. {hint}.")
    return {KINDS[kind].upstream_key(name): plain[name] for name in KINDS[kind].names(plain)}


def _quantized(state: Mapping[str, Any], key: str) -> tuple[str, Prompt]:
    """The prompt whose full-precision values are at `key`, e.g. ``proj.parametrizations.weight.original``."""
    weight = state[key]
    path, _, leaf = key.removesuffix(".original").rpartition("parametrizations.")
    base = key.removesuffix("original")
    own = {k.removeprefix(f"{base}0."): v for k, v in state.items() if k.startswith(f"{base}0.")}
    try:
        config = QuantConfig(**parse_extra_state(own["_extra_state"])["config"])
        fake = FakeQuantize(weight, config)
        fake.load_state_dict(own)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the quantization of {path}{leaf} in it cannot be read: {error}") from None
    return path + leaf, Prompt(weight, fake if fake.active else None)
