"""Quantized prompts while they are trained (arXiv 2407.10704).

`quantize_` puts a `FakeQuantize` parametrization on tensors of any module, in place; the module then computes with
the quantized values and the optimizer keeps training the full-precision ones. The forward pass changes no state:
`refresh_`, called once a step, counts the step and re-fits the codebook when its policy says so.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qprompt import quantizers
from qprompt.errors import UserError, did_you_mean
from qprompt.kmeans import boundaries

POLICIES = ("cac", "every", "once")
GRANULARITIES = ("tensor", "row", "group")
GRADIENTS = ("ste", "stats")
MODES = ("qat", "ptq")


@dataclass(frozen=True)
class QuantConfig:
    """How tensors are quantized. Every default lives here; ``TRAINER.QUANT`` is generated from it."""

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
        quantizers.get(self.method)
        for field, choices in (
            ("mode", MODES),
            ("policy", POLICIES),
            ("granularity", GRANULARITIES),
            ("gradient", GRADIENTS),
        ):
            got = getattr(self, field)
            if got not in choices:
                raise UserError(f"{field}={got!r}: expected one of {', '.join(choices)}.{did_you_mean(str(got), choices)}")
        if isinstance(self.bits, bool) or self.bits not in (*range(1, 9), 16):
            raise UserError(f"bits={self.bits!r}: expected 1 to 8, or 16 (half precision, for reference)")
        for field, least in (("start_step", 0), ("min_interval", 1), ("kl_threshold", 0), ("group_size", 1)):
            got = getattr(self, field)
            if not got >= least:
                raise UserError(f"{field}={got!r}: expected {least} or more")
        for field in ("include", "exclude"):
            object.__setattr__(self, field, tuple(getattr(self, field)))


class FakeQuantize(nn.Module):
    """W -> W_q with straight-through gradient. Stateless in forward; see `refresh_`."""

    codebook: Tensor  # (G, k) float32, normalized centroids in ascending order
    reference: Tensor  # (G, k) float32, P_ref: share of the weights in each level at the last fit

    def __init__(self, weight: Tensor, config: QuantConfig) -> None:
        super().__init__()
        self.config = config
        self.groups = _groups(weight.shape, config)
        k = 2**config.bits if config.bits <= 8 else 0
        self.register_buffer("codebook", weight.new_zeros(self.groups, k, dtype=torch.float32))
        self.register_buffer("reference", weight.new_zeros(self.groups, k, dtype=torch.float32))
        self.step = self.last_fit = self.fits = 0

    def forward(self, weight: Tensor) -> Tensor:
        if not self.fits:
            return weight
        with torch.no_grad():
            quantized = self.quantized(weight)
        # Straight-through: exactly the levels, and dW_q/dW = 1 (`W + (W_q - W)` would round).
        return quantized + (weight - weight.detach())

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def stats(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (G, L) float32, mu (G, 1) and sigma (G, 1); sigma of a constant tensor is taken as 1."""
        x = weight.detach().float().reshape(self.groups, -1)
        if not self.config.normalize:
            return x, x.new_zeros(self.groups, 1), x.new_ones(self.groups, 1)
        sigma, mu = torch.std_mean(x, dim=-1, keepdim=True, correction=0)
        return x, mu, torch.where(sigma > 0, sigma, 1.0)

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (G, L) int64 and levels (G, k) float16: all that the packed file holds."""
        x, mu, sigma = self.stats(weight)
        levels = (sigma * self.codebook + mu).half()
        return torch.searchsorted(sigma * boundaries(self.codebook) + mu, x), levels

    def quantized(self, weight: Tensor) -> Tensor:
        """W_q, without a gradient."""
        if self.config.bits == 16:
            return weight.half().to(weight.dtype)
        indices, levels = self.encode(weight)
        return levels.to(weight.dtype).gather(1, indices).reshape(weight.shape)

    def histogram(self, weight: Tensor) -> Tensor:
        """Share of the weights in each level of the current codebook: (G, k)."""
        x, mu, sigma = self.stats(weight)
        indices = torch.searchsorted(sigma * boundaries(self.codebook) + mu, x)
        counts = torch.zeros_like(self.codebook).scatter_add_(1, indices, torch.ones_like(x))
        return counts / x.shape[1]

    def divergence(self, weight: Tensor) -> Tensor:
        """KL(P_now || P_ref), the largest over the groups. Counts get half an entry each, so no bin is empty."""
        n = weight.numel() // self.groups
        half, k = 0.5 / n, self.codebook.shape[1]
        now, ref = (self.histogram(weight) + half) / (1 + k * half), (self.reference + half) / (1 + k * half)
        return (now * (now / ref).log()).sum(-1).max()

    def fit(self, weight: Tensor) -> None:
        if self.config.bits != 16:
            x, mu, sigma = self.stats(weight)
            self.codebook.copy_(quantizers.get(self.config.method)((x - mu) / sigma, self.codebook.shape[1]))
            self.reference.copy_(self.histogram(weight))
        self.last_fit, self.fits = self.step, self.fits + 1

    def refresh(self, weight: Tensor) -> bool:
        """One step: re-fit if due; tell whether it was."""
        due = self._due(weight)
        if due:
            self.fit(weight)
        self.step += 1
        return due

    def _due(self, weight: Tensor) -> bool:
        c = self.config
        if not self.fits:
            return c.mode == "qat" and self.step >= c.start_step
        if c.bits == 16 or c.mode == "ptq" or c.policy == "once":
            return False
        if c.policy == "every":
            return self.step > 0
        return self.step - self.last_fit >= c.min_interval and bool(self.divergence(weight) > c.kl_threshold)

    def get_extra_state(self) -> dict:
        return {"step": self.step, "last_fit": self.last_fit, "fits": self.fits, "config": dataclasses.asdict(self.config)}

    def set_extra_state(self, state: dict) -> None:
        self.step, self.last_fit, self.fits = state["step"], state["last_fit"], state["fits"]

    def _apply(self, fn, recurse=True):
        # .half() on the module around must not round the codebook: devices follow, the type stays float32.
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            if self._buffers[name].dtype != torch.float32:
                self._buffers[name] = old.to(self._buffers[name].device)
        return self


def _groups(shape: torch.Size, config: QuantConfig) -> int:
    n = shape.numel()
    if config.granularity == "tensor":
        return 1
    length = shape[-1] if config.granularity == "row" else config.group_size
    if n % length:
        raise UserError(f"group_size={length} does not divide the {n} entries of a tensor of shape {tuple(shape)}")
    return n // length


def quantized_parameters(module: nn.Module) -> dict[str, tuple[FakeQuantize, nn.Parameter]]:
    """Name -> (parametrization, full-precision parameter) of every quantized tensor, in order."""
    found = {}
    for prefix, owner in module.named_modules():
        if not parametrize.is_parametrized(owner):
            continue
        for name, chain in owner.parametrizations.items():
            for p in chain:
                if isinstance(p, FakeQuantize):
                    found[f"{prefix}.{name}" if prefix else name] = (p, chain.original)
    return found


def match_parameters(module: nn.Module, patterns: Iterable[str], exclude: Iterable[str] = ()) -> list[str]:
    """Names of the parameters that match one of the glob patterns; a pattern that matches none raises UserError."""
    known = [name for name, _ in module.named_parameters() if ".parametrizations." not in f".{name}"]
    chosen = set()
    for pattern in patterns:
        hits = [name for name in known if fnmatchcase(name, pattern)]
        if not hits:
            raise UserError(f"no parameter matches {pattern!r}.{did_you_mean(pattern, known)} There are: {', '.join(known)}")
        chosen.update(hits)
    return [n for n in known if n in chosen and not any(fnmatchcase(n, p) for p in exclude)]


@torch.no_grad()
def quantize_(module: nn.Module, config: QuantConfig | None = None, names: Iterable[str] | None = None, **fields) -> list[str]:
    """Quantize parameters of `module` in place; return their names.

    `names` are parameter names or glob patterns (``compound_prompts_text.*``); ``config.include`` stands in for them.
    """
    config = dataclasses.replace(config or QuantConfig(), **fields)
    patterns = (names,) if isinstance(names, str) else names
    chosen = match_parameters(module, config.include or patterns or (), config.exclude)
    if not chosen:
        raise UserError("nothing to quantize: name the parameters, e.g. names=['ctx']")
    for full in chosen:
        prefix, _, name = full.rpartition(".")
        owner = module.get_submodule(prefix)
        weight = getattr(owner, name)
        if not bool(torch.isfinite(weight).all()):
            raise UserError(f"{full} holds NaN or infinite values; nothing was quantized")
        fake = FakeQuantize(weight, config)
        parametrize.register_parametrization(owner, name, fake)
        if config.mode == "qat" and config.start_step == 0:
            fake.fit(weight)
    return chosen


@torch.no_grad()
def refresh_(module: nn.Module) -> list[str]:
    """Once a step, before the forward pass: count it and re-fit what is due. Returns the names that were re-fitted."""
    return [name for name, (fake, weight) in quantized_parameters(module).items() if fake.refresh(weight)]


@torch.no_grad()
def finish_(module: nn.Module) -> list[str]:
    """After the last step: fit whatever was never fitted (mode "ptq", or a start step never reached)."""
    pending = {name: pair for name, pair in quantized_parameters(module).items() if not pair[0].fits}
    for fake, weight in pending.values():
        fake.fit(weight)
    return list(pending)


@torch.no_grad()
def dequantize_(module: nn.Module, keep: str = "quantized") -> list[str]:
    """Remove the parametrizations in place, leaving the quantized values, or with keep="original" the full-precision ones."""
    names = list(quantized_parameters(module))
    for full in names:
        prefix, _, name = full.rpartition(".")
        parametrize.remove_parametrizations(module.get_submodule(prefix), name, leave_parametrized=keep == "quantized")
    return names
