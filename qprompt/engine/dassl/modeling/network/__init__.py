"""The registry of networks."""

from ..._left_out import module_getattr

from .build import NETWORK_REGISTRY, build_network  # isort:skip

__all__ = ["NETWORK_REGISTRY", "build_network"]

__getattr__ = module_getattr(__name__)
