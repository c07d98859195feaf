"""The identity of a backbone: everything that changes its features."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from qprompt.backbones.clip_package import ClipModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What distinguishes a backbone from others.

    Attributes:
        weights: SHA-256 (hex) of the names, shapes and fp32 values of the weights.
        unlike_openai: What it computes otherwise than OpenAI's code: heads, activations, epsilons, a missing norm.
    """

    weights: str
    unlike_openai: tuple[str, ...]

    @classmethod
    def of(cls, model: ClipModel) -> "Identity":
        """Return the identity of a model in fp32."""
        digest = hashlib.sha256()
        for name, value in sorted(model.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy())
        return cls(digest.hexdigest(), tuple(sorted(_unlike_openai(model))))

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of everything; for models that compute as OpenAI's do, that of the weights."""
        if not self.unlike_openai:
            return self.weights
        return hashlib.sha256("\n".join([self.weights, *self.unlike_openai]).encode()).hexdigest()

    def accepts(self, sha256: str) -> bool:
        """Return whether `sha256`, from a file, belongs to this backbone.

        Files of early versions have the hash of the weights for every backbone; a warning then says what is not known.
        """
        if sha256 == self.weights and self.unlike_openai:
            log.warning(
                "The prompt was stored with a hash of the backbone's weights alone: whether it was learned with %s is "
                "not known.",
                self.unlike_openai[0],
            )
        return sha256 in (self.weights, self.sha256)


def backbone_hash(model: ClipModel) -> str:
    """Return `Identity.sha256` of a model in fp32."""
    return Identity.of(model).sha256


def _unlike_openai(model: ClipModel) -> Iterator[str]:
    """Yield differences in words, which enter the hash and so never change."""
    for branch, transformer in (("image", getattr(model.visual, "transformer", None)), ("text", model.transformer)):
        for number, block in enumerate(transformer.resblocks if transformer is not None else ()):
            heads, width = block.attn.num_heads, block.attn.embed_dim
            if heads != width // 64:
                yield f"{branch} {number} heads {heads}"
            if type(block.mlp.gelu).__name__ != "QuickGELU":
                yield f"{branch} {number} activation {type(block.mlp.gelu).__name__}"
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and module.eps != 1e-5:
            yield f"{name} eps {module.eps}"
        elif name == "visual.ln_pre" and isinstance(module, nn.Identity):
            yield f"{name} left out"
