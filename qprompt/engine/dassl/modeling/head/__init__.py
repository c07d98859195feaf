"""The registry of heads."""

from ..._left_out import module_getattr

from .build import HEAD_REGISTRY, build_head  # isort:skip
from .mlp import mlp

__all__ = ["HEAD_REGISTRY", "build_head", "mlp"]

__getattr__ = module_getattr(__name__)
