"""The registry of trainers."""

from .._left_out import TRAINERS, LeftOut, advice
from ..utils import Registry, check_availability

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg):
    """Return the trainer named by ``cfg.TRAINER.NAME``, with its data and its model.

    Raises:
        UserError: no trainer with this name is registered.
        ImportError: only real Dassl has it.
    """
    name, names = cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names()
    if name in TRAINERS and name not in names:
        raise LeftOut(advice(f"trainer {name}"))
    check_availability(name, names)
    if cfg.VERBOSE:
        print(f"Loading trainer: {name}")
    return TRAINER_REGISTRY.get(name)(cfg)
