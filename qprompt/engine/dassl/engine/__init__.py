"""The registry and the base classes of trainers."""

from .._left_out import module_getattr

from .build import TRAINER_REGISTRY, build_trainer  # isort:skip
from .trainer import SimpleNet, SimpleTrainer, TrainerBase, TrainerX, TrainerXU

__all__ = [
    "TRAINER_REGISTRY",
    "SimpleNet",
    "SimpleTrainer",
    "TrainerBase",
    "TrainerX",
    "TrainerXU",
    "build_trainer",
]

__getattr__ = module_getattr(__name__)
