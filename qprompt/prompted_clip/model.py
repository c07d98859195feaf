"""A frozen CLIP with a prompt learner: images in, logits out."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qprompt.backbones import ClipModel
from qprompt.prompted_clip.cuda_graph import Captured
from qprompt.prompted_clip.gpu_operations import launches_decide, unit_length
from qprompt.prompted_clip.image import encode_image
from qprompt.prompted_clip.layout import PromptLayout
from qprompt.prompted_clip.text import encode_text


class Prompts(NamedTuple):
    """The output of a prompt learner, for the two encoders.

    Attributes:
        text: `context` of `encode_text`.
        text_deep: `deep` of `encode_text`.
        image: `prompts` of `encode_image`.
        image_deep: `deep` of `encode_image`.
    """

    text: Tensor | None = None
    text_deep: Sequence[Tensor] = ()
    image: Tensor | None = None
    image_deep: Sequence[Tensor] = ()

    def to(self, dtype: torch.dtype) -> "Prompts":
        """Return the prompts in another precision."""
        one = (None if t is None else t.to(dtype) for t in (self.text, self.image))
        several = ([t.to(dtype) for t in deep] for deep in (self.text_deep, self.image_deep))
        (text, image), (text_deep, image_deep) = one, several
        return Prompts(text, text_deep, image, image_deep)


class PromptedCLIP(nn.Module):
    """CLIP's classifier with prompts from a prompt learner.

    The CLIP model is used and never changed. It is not a submodule: `parameters()` and `state_dict()` contain only what
    is learned. Without gradients, text features are cached until a weight changes.

    Attributes:
        feature_dtype: Of normalized features and logits.
        prompt_dtype: Prompts are rounded to it before they are used; None: they are not.
    """

    feature_dtype = torch.float32
    prompt_dtype: torch.dtype | None = None

    def __init__(
        self,
        clip_model: ClipModel,
        layout: PromptLayout,
        prompt_learner: nn.Module | None = None,
        logit_scale: float = 0.0,
    ):
        """Build the classifier.

        Args:
            clip_model: A frozen model.
            layout: The prompts of C classes.
            prompt_learner: A module whose call returns `Prompts`; None for zero-shot.
            logit_scale: Factor of the cosine similarities; 0: the model's own.
        """
        super().__init__()
        self._frozen = (clip_model,)
        self.layout, self.prompt_learner = layout, prompt_learner
        self.logit_scale = logit_scale or float(clip_model.logit_scale.detach().exp())
        self._cache: tuple[object, Tensor] | None = None  # (version of the weights, text features)
        self._graphs: tuple[Captured, Captured] | None = None  # of the image and the text encoder

    @property
    def clip_model(self) -> ClipModel:
        return self._frozen[0]

    def prompts(self) -> Prompts:
        """Return the current prompts."""
        return self.prompt_learner() if self.prompt_learner is not None else Prompts()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, C) for images (B, 3, H, W) or image features (B, E)."""
        prompts = self.prompts()
        if self.prompt_dtype is not None:
            prompts = prompts.to(self.prompt_dtype)
        image_features = normalize(self.image_features(image, prompts), self.feature_dtype)
        return similarity(self.logit_scale, image_features, self.text_features(prompts))

    def image_features(self, image: Tensor, prompts: Prompts | None = None) -> Tensor:
        """Return features (B, E) of images, not normalized; features are returned as they are."""
        if image.dim() == 2:
            return image
        prompts = prompts or self.prompts()
        encode = self._graphs[0] if self._graphs else self._encode_image
        return encode(image, *([] if prompts.image is None else [prompts.image]), *prompts.image_deep)

    def text_features(self, prompts: Prompts) -> Tensor:
        """Return normalized text features (C, E), from the cache if it is valid."""
        version = self._weights_version()
        if self._cache is not None and self._cache[0] == version:
            return self._cache[1]
        features = self.encode_classes(prompts)
        self._cache = None if version is None else (version, features)
        return features

    def encode_classes(self, prompts: Prompts) -> Tensor:
        """Compute normalized text features (C, E)."""
        encode = self._graphs[1] if self._graphs else self._encode_text
        features = encode(*([] if prompts.text is None else [prompts.text]), *prompts.text_deep)
        return normalize(features, self.feature_dtype)

    def _encode_image(self, image: Tensor, prompts: Tensor | None = None, *deep: Tensor) -> Tensor:
        return encode_image(self.clip_model, image, prompts, deep)

    def _encode_text(self, context: Tensor | None = None, *deep: Tensor) -> Tensor:
        return encode_text(self.clip_model, self.layout, context, deep)

    def capture_graphs_(self) -> None:
        """Compute training steps with CUDA graphs of the encoders. Call it when the layout and the device are final."""
        self._graphs = Captured(self._encode_image), Captured(self._encode_text)

    def _weights_version(self) -> object:
        """Return versions of all weights, which torch counts up at every in-place change; None with gradients.

        None also for weights that were made in inference mode, whose changes are not counted.
        """
        weights = [*self.parameters(), *self.buffers()]
        if torch.is_grad_enabled() or any(tensor.is_inference() for tensor in weights):
            return None
        return [(tensor.data_ptr(), tensor._version) for tensor in weights]

    def invalidate_cache(self) -> None:
        """Drop the cached text features; needed after a change that torch does not count (one through ``.data``)."""
        self._cache = None

    def train(self, mode: bool = True) -> "PromptedCLIP":
        """Set the mode of the learned modules; the frozen CLIP stays in eval mode (a ResNet's batch norm must not
        change)."""
        self.invalidate_cache()
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        # .to(device) and the like also move the frozen model. What is made in inference mode has no gradients outside.
        self.invalidate_cache()
        with torch.inference_mode(False):
            self.clip_model._apply(*args, **kwargs)
            return super()._apply(*args, **kwargs)


def normalize(features: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return features of length one along the last dimension, in `dtype`."""
    features = features.to(dtype)
    if dtype == torch.float32 and launches_decide(features.device):
        return unit_length(features)
    return features / features.norm(dim=-1, keepdim=True)


def similarity(scale: float, image_features: Tensor, text_features: Tensor) -> Tensor:
    """Return scaled cosine similarities (..., B, C) of normalized features (..., B, E) and (..., C, E).

    Computed in the precision of the features also under autocast: half precision is coarse for logits of CLIP's scale.
    """
    with torch.autocast(device_type=image_features.device.type, enabled=False):
        return scale * image_features @ text_features.transpose(-1, -2)
