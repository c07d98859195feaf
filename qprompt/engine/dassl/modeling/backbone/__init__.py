"""The registry of backbones."""

from ..._left_out import module_getattr

from .build import BACKBONE_REGISTRY, build_backbone  # isort:skip
from .backbone import Backbone

__all__ = ["BACKBONE_REGISTRY", "Backbone", "build_backbone"]

__getattr__ = module_getattr(__name__)
