"""Image transforms by the names in ``cfg.INPUT.TRANSFORMS``.

torchvision's transforms are used where they draw the same random numbers and give the same pixels as Dassl's: resizing,
cropping, flipping, color jitter, grayscale, blur and normalization. The others remain Dassl's. torchvision's
AutoAugment, RandAugment, RandomErasing and GaussianNoise draw from torch's generator only. Dassl's policies, cutout and
noise also draw from Python's and numpy's, and their operations, strengths and fill colors differ.
"""

from .transforms import INTERPOLATION_MODES, build_transform

__all__ = ["INTERPOLATION_MODES", "build_transform"]
