"""How tensors are quantized: `QuantConfig`, which holds every default of the method."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from qprompt.errors import UserError, did_you_mean
from qprompt.quantization import quantizers

CHOICES = {
    "mode": ("qat", "ptq"),
    "policy": ("cac", "every", "once"),
    "granularity": ("tensor", "row", "group"),
    "gradient": ("ste", "stats"),
}
LEAST = {"start_step": 0, "min_interval": 1, "kl_threshold": 0.0, "group_size": 1}


@dataclass(frozen=True)
class QuantConfig:
    """Settings of quantization, checked on construction. ``TRAINER.QUANT`` is generated from its fields.

    Attributes:
        method: the quantizer, a name in `qprompt.quantization.quantizers.REGISTRY`.
        bits: 1 to 8; or 16, which rounds to half precision, for reference.
        normalize: fit the levels to (W - mu) / sigma. mu and sigma follow W at every step, the levels do not.
        mode: "qat" quantizes during training; "ptq" trains in full precision and quantizes at the end (`finish_`).
        start_step: the step at which "qat" begins; before it, training is in full precision.
        policy: when the levels are fitted again. "cac", constrained adaptive clustering (arXiv 2407.10704, section
            3.3): when at least `min_interval` steps have passed since the last fit and KL(P_now || P_ref) >
            `kl_threshold`. "every": at every step. "once": never. The paper publishes neither value; these are ours.
        granularity: one codebook per "tensor", per "row" (along the last axis: per token), or per "group" of
            `group_size` entries.
        gradient: "ste" is dW_q/dW = 1; "stats" adds the dependence of W_q on sigma (`straight_through.through_sigma`).
        include: glob patterns of parameter names; they replace the names that the caller gives.
        exclude: glob patterns of parameters that are not quantized.

    Raises:
        UserError: a value is not among the choices or out of range.
    """

    method: str = "kmeans"
    bits: int = 1
    normalize: bool = True
    mode: str = "qat"
    start_step: int = 0
    policy: str = "cac"
    min_interval: int = 10
    kl_threshold: float = 0.01
    granularity: str = "tensor"
    group_size: int = 64
    gradient: str = "ste"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        quantizer = quantizers.get(self.method)
        for field, choices in CHOICES.items():
            got = getattr(self, field)
            if got not in choices:
                hint = did_you_mean(str(got), choices)
                raise UserError(f"{field}={got!r}: expected one of: {', '.join(choices)}.{hint}")
        if not _is_int(self.bits) or self.bits not in (*range(1, 9), 16):
            raise UserError(f"bits={self.bits!r}: expected 1 to 8, or 16 for half precision")
        if self.bits != 16 and self.bits > quantizer.max_bits:
            raise UserError(f"bits={self.bits}: quantizer {self.method!r} has at most {quantizer.max_bits} bits")
        for field, least in LEAST.items():
            got = getattr(self, field)
            if not (_is_int(got) or (isinstance(least, float) and isinstance(got, float))) or not got >= least:
                kind = "number" if isinstance(least, float) else "whole number"
                raise UserError(f"{field}={got!r}: expected a {kind} of at least {least:g}")
        if not isinstance(self.normalize, bool):
            raise UserError(f"normalize={self.normalize!r}: expected True or False")
        for field in ("include", "exclude"):
            got = getattr(self, field)
            if isinstance(got, str) or not all(isinstance(pattern, str) for pattern in got):
                raise UserError(f"{field}={got!r}: expected a list of parameter names or patterns: ('ctx',)")
            object.__setattr__(self, field, tuple(got))

    @property
    def levels(self) -> int:
        """k = 2^b; 0 at 16 bits, where no codebook is used."""
        return 0 if self.bits == 16 else 2**self.bits

    def count_groups(self, shape: torch.Size) -> int:
        """Return the number of codebooks of a tensor; UserError if `group_size` does not divide its entries."""
        n = shape.numel()
        length = {"tensor": n, "row": shape[-1] if shape else 1, "group": self.group_size}[self.granularity]
        if not n or n % length:
            raise UserError(f"group_size {length} does not divide the {n} entries of a tensor of shape {tuple(shape)}")
        return n // length


def make_config(config: Any, fields: Mapping[str, Any]) -> QuantConfig:
    """Return a config with some fields replaced.

    Args:
        config: a `QuantConfig`, or None for the default one.
        fields: new values by name.

    Raises:
        UserError: `config` is something else, or a name or value is not valid. The message says what to type.
    """
    if isinstance(config, Mapping):
        words = ", ".join(f"{name}={value!r}" for name, value in config.items())
        raise UserError(f"a config is a QuantConfig, got a {type(config).__name__}. Type: QuantConfig({words})")
    if config is not None and not isinstance(config, QuantConfig):
        raise UserError(f"a config is a QuantConfig, got {config!r}. Type: config=qprompt.QuantConfig(bits=1)")
    known = [field.name for field in dataclasses.fields(QuantConfig)]
    for name in fields:
        if name not in known:
            raise UserError(f"QuantConfig has no {name!r}.{did_you_mean(name, known)} It has: {', '.join(known)}.")
    return dataclasses.replace(config or QuantConfig(), **fields)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
