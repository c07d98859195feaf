"""Image transforms by the names in ``cfg.INPUT.TRANSFORMS``."""

from .transforms import INTERPOLATION_MODES, build_transform

__all__ = ["INTERPOLATION_MODES", "build_transform"]
