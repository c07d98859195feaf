"""CoOp's and MaPLe's prompts in state dicts: upstream's, ours, plain or quantized."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor

from qprompt.errors import UserError
from qprompt.fake_quantize import FakeQuantize
from qprompt.quant_config import QuantConfig


@dataclass(frozen=True)
class Kind:
    """A prompt learner by the names of its tensors."""

    method: str
    folder: str  # of its checkpoints
    prefix: str  # of its keys in upstream's checkpoints
    quantized: tuple[str, ...]
    half: tuple[str, ...]
    bits: int  # of the paper

    def names(self, keys: Mapping[str, Any]) -> list[str]:
        return [key for key in keys if any(fnmatchcase(key, p) for p in (*self.quantized, *self.half))]


KINDS = {
    "coop": Kind("QCoOp", "prompt_learner", "", ("ctx",), (), 1),
    "maple": Kind(
        "QMaPLe",
        "MultiModalPromptLearner",
        "prompt_learner.",
        ("ctx", "compound_prompts_text.*", "proj.weight", "compound_prompt_projections.*.weight"),
        ("proj.bias", "compound_prompt_projections.*.bias"),
        4,
    ),
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


def kind_of_state(state: Mapping[str, Any]) -> Kind:
    """Whose prompts a state dict holds; UserError where it holds none."""
    return KINDS[prompts_in(state).kind]


def kind_of(keys: Mapping[str, Any]) -> str:
    """ "coop" or "maple", from names without a prefix."""
    return "maple" if "proj.weight" in keys else "coop"


def prompts_in(state: Mapping[str, Any]) -> Found:
    """The prompts of a state dict; UserError where it is neither CoOp's nor MaPLe's."""
    state = {key.removeprefix("prompt_learner."): value for key, value in state.items()}
    prompts = {key: Prompt(value, None) for key, value in state.items() if isinstance(value, Tensor)}
    for key in state:
        if key.endswith(".original") and "parametrizations." in key:
            name, prompt = _quantized(state, key)
            prompts[name] = prompt
    kind = kind_of(prompts)
    names = KINDS[kind].names(prompts)
    if "ctx" not in names:
        some = ", ".join(list(state)[:6]) or "nothing"
        raise UserError(f"no prompts of CoOp or MaPLe are in it (no 'ctx', no 'prompt_learner.ctx'); it has: {some}")
    return Found(
        kind,
        {name: prompts[name] for name in names},
        [name for name in names if any(fnmatchcase(name, pattern) for pattern in KINDS[kind].quantized)],
    )


def from_kind(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Tensors of a prompt file under the keys of upstream's checkpoint of that kind."""
    plain = {key.removeprefix("prompt_learner."): value for key, value in tensors.items()}
    own = kind_of(plain) if "ctx" in plain else None
    if own != kind:
        holds = f"prompts of {KINDS[own].method}" if own else f"{', '.join(list(plain)[:6])}"
        raise UserError(f"it holds {holds}, not those of {KINDS[kind].method}." + (f" Use --as {own}" if own else ""))
    return {KINDS[kind].prefix + name: plain[name] for name in KINDS[kind].names(plain)}


def _quantized(state: Mapping[str, Any], key: str) -> tuple[str, Prompt]:
    """The prompt whose full-precision values are at `key`, e.g. ``proj.parametrizations.weight.original``."""
    weight = state[key]
    path, _, leaf = key.removesuffix(".original").rpartition("parametrizations.")
    base = key.removesuffix("original")
    own = {k.removeprefix(f"{base}0."): v for k, v in state.items() if k.startswith(f"{base}0.")}
    try:
        config = QuantConfig(**FakeQuantize.saved(own["_extra_state"])["config"])
        fake = FakeQuantize(weight, config)
        fake.load_state_dict(own)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the quantization of {path}{leaf} in it cannot be read: {error}") from None
    return path + leaf, Prompt(weight, fake if fake.active else None)
