"""The default configuration: every key of Dassl."""

from .defaults import _C as cfg_default

__all__ = ["cfg_default", "clean_cfg", "get_cfg_default"]


def get_cfg_default():
    """Return a copy of the default configuration (a yacs CfgNode) to extend, merge into and freeze."""
    return cfg_default.clone()


def clean_cfg(cfg, trainer):
    """Remove the nodes of all trainers except `trainer` from ``cfg.TRAINER``, which makes a printed config short."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            del cfg.TRAINER[key]
