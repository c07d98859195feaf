"""Prompts that depend on the image (CoCoOp)."""

import torch
from torch import Tensor

from qprompt.prompted_clip.model import PromptedCLIP, Prompts, normalize, similarity

ROWS = 1 << 14  # text rows per pass in evaluation, over the images of a batch


class ConditionalCLIP(PromptedCLIP):
    """CLIP's classifier with text features that are computed per image.

    The prompt learner is called with normalized image features (B, E) and returns `Prompts` with text (B, 1, n, D).
    """

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, C) for images (B, 3, H, W) or image features (B, E)."""
        image_features = normalize(self.image_features(image, Prompts()), self.feature_dtype)
        at_once = len(image) if torch.is_grad_enabled() else max(1, ROWS // len(self.layout.rows))
        logits = []
        assert self.prompt_learner is not None
        for features in image_features.split(at_once):
            text_features = self.encode_classes(self.prompt_learner(features))  # (b, C, E)
            logits.append(similarity(self.logit_scale, features[:, None], text_features)[:, 0])
        return torch.cat(logits)
