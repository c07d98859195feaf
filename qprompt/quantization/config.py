"""How tensors are quantized: `QuantConfig`, where every default lives."""

from dataclasses import dataclass
from typing import Any

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
    """How tensors are quantized; checked when it is made (UserError). ``TRAINER.QUANT`` is generated from it.

    method: level rule, a name in `qprompt.quantization.quantizers.REGISTRY`.
    bits: 1 to 8, or 16: rounding to half precision, for reference and for what stays unquantized.
    normalize: fit the levels to (W - mu) / sigma; mu and sigma then follow W at every step, the levels do not.
    mode: "qat" quantizes in training; "ptq" trains in full precision and quantizes when training ends (`finish_`).
    start_step: QAT begins at this step; before it, training is in full precision.
    policy: when levels are fitted again: "cac", constrained adaptive clustering (arXiv 2407.10704, section 3.3), if
        at least `min_interval` steps have passed and KL(P_now || P_ref) > `kl_threshold`; "every" step; "once", never.
        The paper gives neither value: these are ours.
    granularity: one codebook a "tensor", a "row" (last axis: a token), or a "group" of `group_size` entries.
    gradient: "ste", dW_q/dW = 1; "stats" adds the dependence of W_q on sigma (see `FakeQuantize`).
    include: glob patterns of parameter names that replace the names the caller gives; exclude: names left alone.
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
        rule = quantizers.get(self.method)
        for field, choices in CHOICES.items():
            got = getattr(self, field)
            if got not in choices:
                hint = did_you_mean(str(got), choices)
                raise UserError(f"{field}={got!r}: expected one of: {', '.join(choices)}.{hint}")
        if not _is_int(self.bits) or self.bits not in (*range(1, 9), 16):
            raise UserError(f"bits={self.bits!r}: expected 1 to 8, or 16 for half precision")
        if self.bits != 16 and self.bits > rule.max_bits:
            raise UserError(f"bits={self.bits}: method {self.method!r} has at most {rule.max_bits}")
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
        """k = 2^b; none at 16 bits, where the values stand for themselves."""
        return 0 if self.bits == 16 else 2**self.bits


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
