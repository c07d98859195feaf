"""CLIP models by name or from a file: always an unmodified `clip.model.CLIP`, in fp32, in eval mode, frozen.

model = load_clip("ViT-B/16")                           # OpenAI's weights, downloaded once
model = load_clip("ViT-B/16", path="my_weights.pt")     # a state dict or a TorchScript archive
model = load_clip("tiny")                               # the small model in this package
"""

from qprompt.backbones.clip_package import ClipModel, import_clip
from qprompt.backbones.identity import Identity, backbone_hash
from qprompt.backbones.load import (
    available_backbones,
    check_backbone,
    convert_weights_,
    load_clip,
    load_state_dict,
    missing_weights,
)

__all__ = [
    "ClipModel",
    "Identity",
    "available_backbones",
    "backbone_hash",
    "check_backbone",
    "convert_weights_",
    "import_clip",
    "load_clip",
    "load_state_dict",
    "missing_weights",
]
