"""The computation of "Quantized Prompt" (arXiv 2407.10704) on one tensor, as a torch parametrization.

Axes: G groups of a tensor, each with its own codebook (the paper: G = 1); L entries per group; k = 2^b levels.

    W      (G, L)  weight, trained in full precision        mu, sigma  (G, 1)  its mean and standard deviation
    W_hat  (G, L)  normalized weight                        c          (G, k)  codebook, ascending, fitted to W_hat
    i      (G, L)  index of the level nearest to W_hat      W_q        (G, L)  quantized weight, sigma * c[i] + mu

mu and sigma follow W at every step; c changes only when it is fitted. Levels are computed in fp32 and rounded to fp16
before they are used, so the stored prompt equals the trained one bit for bit.
"""

import numpy as np
import torch
from torch import Tensor, nn

from qprompt.quantization import quantizers
from qprompt.quantization.codebook import LARGE, Table, assign, center, count, lookup, make_table
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.encoding import Encoded, EncodingCache
from qprompt.quantization.kmeans import boundaries
from qprompt.quantization.quantizer_state import QuantizerState
from qprompt.quantization.straight_through import straight_through, through_sigma, through_step_size


def normalize(x: Tensor, enabled: bool = True, large: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Section 3.3, normalization: W_hat = (W - mu) / sigma, over all L entries of a group.

    Args:
        x: W (G, L) float32.
        enabled: without it W_hat is W, mu is 0 and sigma is 1 (an ablation of the paper).
        large: see `codebook.center`.

    Returns:
        W_hat (G, L), mu and sigma (G, 1). W_hat of a constant is 0.
    """
    if not enabled:
        return x, x.new_zeros(len(x), 1), x.new_ones(len(x), 1)
    centered, mu, sigma = center(x, large)
    sigma.clamp_(min=1e-30)
    return centered.div_(sigma), mu, sigma


def encode(
    normalized: Tensor,
    mu: Tensor,
    sigma: Tensor,
    codebook: Tensor,
    bounds: Tensor,
    dtype: torch.dtype,
    table: Table | None = None,
) -> Encoded:
    """Section 3.2, quantization: the nearest level of each entry, and W_q = sigma * c[i] + mu.

    Args:
        normalized: (W - mu) / sigma, as `normalize` returned it with mu and sigma.
        codebook: c (G, k).
        bounds: (G, k - 1) between its levels.
        dtype: of W and W_q.
        table: of the bounds.
    """
    indices = assign(normalized, bounds, table)
    # Denormalization, in fp16 as it is stored. Not by .half(), which the launcher's --fp32 turns into .float().
    levels = torch.addcmul(mu, sigma, codebook).to(torch.float16)
    return Encoded(indices, levels, lookup(levels.to(dtype), indices), normalized, sigma)


def divergence(counts: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Section 3.3, CAC: KL(P_now || P_ref) in nats for each group; P is the histogram over the k indices.

    The paper does not say what an empty level counts. Here every level gets half an entry more than it has, in both
    histograms, so the divergence is always finite.

    Args:
        counts: (G, k) entries on each level of the current codebook now.
        reference: (G, k) shares of the entries at the last fit, with the same codebook.
    """
    n, k = counts.sum(-1, keepdims=True), counts.shape[-1]
    now, before = (counts + 0.5) / (n + 0.5 * k), (reference * n + 0.5) / (n + 0.5 * k)
    return np.sum(now * np.log(now / before), axis=-1)


class FakeQuantize(QuantizerState):
    """W -> W_q while the prompt is trained; W unchanged before the first fit (mode "ptq", or before `start_step`).

    The gradient of W, for the gradient g of W_q: "ste", the paper's, is g; "stats" and the quantizer "lsq" are in
    `straight_through`. The forward pass changes no state; `qprompt.refresh_` does, once a step.
    """

    codebook: Tensor  # c (G, k) float32
    reference: Tensor  # P_ref (G, k) float32: share of the entries on each level at the last fit
    mids: Tensor  # (G, k - 1) float32, boundaries between the levels c
    stored: Tensor | None = None  # quantized values in the place of the weight, where a trainer tests

    def __init__(self, weight: Tensor, config: QuantConfig) -> None:
        super().__init__()
        self.config, self.quantizer, self.cache = config, quantizers.get(config.method), EncodingCache()
        self.groups, self.numel = config.count_groups(weight.shape), weight.numel()
        self.large = self.numel >= LARGE
        zeros = torch.zeros(self.groups, config.levels, device=weight.device)
        self.register_buffer("codebook", zeros)
        self.register_buffer("reference", zeros.clone())
        self.register_buffer("mids", zeros[:, 1:].clone(), persistent=False)
        self.table: Table | None = None
        self._host_reference: np.ndarray | None = None
        self.learned = self.quantizer.learned and config.bits != 16
        self.step_size = nn.Parameter(zeros.new_ones(self.groups, 1)) if self.learned else None
        self.reset()

    def forward(self, weight: Tensor) -> Tensor:
        if not self.active or (self.stored is not None and torch.equal(weight, self.stored)):
            return weight
        if self.config.levels == 0:  # 16 bits, for reference
            return straight_through(weight, weight.detach().to(torch.float16).to(weight.dtype))
        encoded = self.cache.take(weight) if torch.is_grad_enabled() else None
        with torch.no_grad():
            encoded = encoded or self.encode(weight)
            value = encoded.values.view(weight.shape)
        if not torch.is_grad_enabled():
            return value
        if self.step_size is not None:
            return through_step_size(weight, value, encoded, self.step_size)
        value = straight_through(weight, value)
        if self.config.gradient == "stats" and self.config.normalize:
            value = value + through_sigma(weight, encoded, self.codebook)
        return value

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def encode(self, weight: Tensor) -> Encoded:
        """Return the indices and levels that stand for `weight`, as the prompt file stores them."""
        return encode(*self.normalize(weight), self.normalized_levels(), self.boundaries(), weight.dtype, self.table)

    def normalize(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`normalize` with the settings of this tensor, in fp32."""
        return normalize(weight.detach().reshape(self.groups, -1).float(), self.config.normalize, self.large)

    def fit(self, weight: Tensor) -> None:
        """Section 3.3, K-Means: fit c to `weight` as it is now, and take P_ref from it."""
        if self.config.levels:
            normalized, _, _ = self.normalize(weight)
            self.codebook.copy_(self.quantizer.fit(normalized, self.config.levels))
            if self.step_size is not None:
                self.step_size.data.copy_(self.codebook[:, -1:] - self.codebook[:, -2:-1])
            self.derive_()
            indices = assign(normalized, self.mids, self.table)
            self.reference.copy_(count(indices, self.config.levels) / indices.shape[1])
        self.last_fit, self.fits, self.active, self.kl = self.step, self.fits + 1, True, 0.0
        self.cache.clear()

    @property
    def due(self) -> bool | None:
        """Whether this step fits the levels; None where the KL gate decides (`gate_is_open`)."""
        c = self.config
        if not self.fits:
            return c.mode == "qat" and self.step >= c.start_step
        if c.levels == 0 or self.learned or c.mode == "ptq" or c.policy == "once" or self.step == self.last_fit:
            return False
        if c.policy == "every":
            return True
        return None if self.step - self.last_fit >= c.min_interval else False  # CAC: at least t steps

    @property
    def gate_is_open(self) -> bool:
        """Section 3.3, CAC: KL(P_now || P_ref) > T_KL, for the `kl` computed last."""
        return self.kl > self.config.kl_threshold

    def divergence(self, weight: Tensor) -> float:
        """Return KL(P_now || P_ref) of `weight` in nats; the largest of the groups."""
        counts = count(self.encode(weight).indices, self.config.levels)
        return float(divergence(counts.cpu().numpy(), self.host_reference()).max())

    def host_reference(self) -> np.ndarray:
        """Return P_ref (G, k) as float64 on the host, where k numbers are less work than a kernel launch."""
        if self._host_reference is None:
            self._host_reference = self.reference.cpu().numpy().astype(np.float64)
        return self._host_reference

    @property
    def host_reference_is_known(self) -> bool:
        """Whether `host_reference` needs no transfer."""
        return self._host_reference is not None

    def know_host_reference(self, reference: np.ndarray) -> None:
        """Take P_ref (G, k), float64, which was read from the device with other numbers."""
        self._host_reference = reference

    def normalized_levels(self) -> Tensor:
        """Return c: (G, k) float32; with a learned step size s it is s times a grid."""
        if self.step_size is None:
            return self.codebook
        return self.step_size.detach().abs() * quantizers.grid(self.config.levels, self.codebook.device)

    def boundaries(self) -> Tensor:
        """Return the boundaries between the levels: (G, k - 1) float32."""
        return self.mids if self.step_size is None else boundaries(self.normalized_levels())

    def derive_(self) -> None:
        """Compute what follows from the codebook and would be too costly in every step."""
        self.mids.copy_(boundaries(self.codebook))
        self._host_reference = None
        self.cache.clear()
        one_codebook = self.groups == 1 and self.config.levels > 0 and not self.learned
        tabled = one_codebook and self.large and self.mids.device.type == "cpu"
        self.table = make_table(self.mids[0]) if tabled else None
