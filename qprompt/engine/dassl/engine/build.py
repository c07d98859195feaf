"""The registry of trainers."""

from .._left_out import TRAINERS, advice
from ..utils import Registry, check_availability

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg):
    """The trainer that ``cfg.TRAINER.NAME`` names, with its data and model built."""
    name, names = cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names()
    if name in TRAINERS and name not in names:
        raise ImportError(advice(f"trainer {name}"))
    check_availability(name, names)
    if cfg.VERBOSE:
        print(f"Loading trainer: {name}")
    return TRAINER_REGISTRY.get(name)(cfg)
