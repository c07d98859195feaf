"""A frozen CLIP with a prompt learner: images in, logits out."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qprompt.backbones import ClipModel
from qprompt.prompted_clip.image import encode_image
from qprompt.prompted_clip.layout import PromptLayout
from qprompt.prompted_clip.text import encode_text


class Prompts(NamedTuple):
    """What a prompt learner hands to the two encoders. See `encode_text` and `encode_image` for the shapes."""

    text: Tensor | None = None
    text_deep: Sequence[Tensor] = ()
    image: Tensor | None = None
    image_deep: Sequence[Tensor] = ()


class PromptedCLIP(nn.Module):
    """CLIP's classifier over the prompts that a `prompt_learner` gives.

    Args:
        clip_model: frozen; used, never changed. It is not a submodule: `parameters()` and `state_dict()` of this
            module are what is learned, and nothing else.
        layout: the prompts of the classes.
        prompt_learner: a module whose call returns `Prompts`; None for zero-shot.
        logit_scale: what the cosine similarities are multiplied with; 0 takes the model's own.

    While no gradients flow, text features are kept until a weight changes.
    """

    def __init__(
        self,
        clip_model: ClipModel,
        layout: PromptLayout,
        prompt_learner: nn.Module | None = None,
        logit_scale: float = 0.0,
    ):
        super().__init__()
        self._frozen = (clip_model,)
        self.layout, self.prompt_learner = layout, prompt_learner
        self.logit_scale = logit_scale or float(clip_model.logit_scale.detach().exp())
        self._kept: tuple[object, Tensor] | None = None

    @property
    def clip_model(self) -> ClipModel:
        return self._frozen[0]

    def prompts(self) -> Prompts:
        """The prompts of this moment."""
        return self.prompt_learner() if self.prompt_learner is not None else Prompts()

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C) in fp32 of images (B, 3, H, W), or of image features (B, E) that were encoded before."""
        prompts = self.prompts()
        image_features = normalize(self.image_features(image, prompts))
        return similarity(self.logit_scale, image_features, self.text_features(prompts))

    def image_features(self, image: Tensor, prompts: Prompts | None = None) -> Tensor:
        """(B, E) features of images, not normalized; what is features already passes through."""
        if image.dim() == 2:
            return image
        prompts = prompts or self.prompts()
        return encode_image(self.clip_model, image, prompts.image, prompts.image_deep)

    def text_features(self, prompts: Prompts) -> Tensor:
        """Normalized text features (C, E)."""
        version = self._weights_version()
        if self._kept is not None and self._kept[0] == version:
            return self._kept[1]
        features = self.encode_classes(prompts)
        self._kept = None if version is None else (version, features)
        return features

    def encode_classes(self, prompts: Prompts) -> Tensor:
        """Normalized text features (C, E), computed."""
        return normalize(encode_text(self.clip_model, self.layout, prompts.text, prompts.text_deep))

    def _weights_version(self) -> object:
        """What kept text features depend on; None while gradients flow. Torch counts every change in place."""
        if torch.is_grad_enabled():
            return None
        return [(tensor.data_ptr(), tensor._version) for tensor in (*self.parameters(), *self.buffers())]

    def forget(self) -> None:
        """Drop kept text features: after a change that torch doesn't count (one made through ``.data``)."""
        self._kept = None

    def train(self, mode: bool = True) -> "PromptedCLIP":
        """As for any module; the frozen CLIP stays in eval mode (a ResNet's batch norm must not move)."""
        self.forget()
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        # .to(device) and the like take the frozen model along.
        self.forget()
        self.clip_model._apply(*args, **kwargs)
        return super()._apply(*args, **kwargs)


def normalize(features: Tensor) -> Tensor:
    """Features of length one along the last dimension, in fp32 whatever the encoders compute in."""
    features = features.float()
    return features / features.norm(dim=-1, keepdim=True)


def similarity(scale: float, image_features: Tensor, text_features: Tensor) -> Tensor:
    """Scaled cosine similarities (..., B, C), in fp32 also under autocast: logits of CLIP's scale need it."""
    with torch.autocast(device_type=image_features.device.type, enabled=False):
        return scale * image_features @ text_features.transpose(-1, -2)
