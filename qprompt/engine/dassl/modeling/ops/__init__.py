"""Operations on batches that prompt learning uses."""

from ..._left_out import module_getattr
from .cross_entropy import cross_entropy
from .mixup import mixup
from .reverse_grad import ReverseGrad

__all__ = ["ReverseGrad", "cross_entropy", "mixup"]

__getattr__ = module_getattr(__name__)
