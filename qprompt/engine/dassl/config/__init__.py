"""``get_cfg_default()``: a fresh copy of every key and default."""

from .defaults import _C as cfg_default

__all__ = ["cfg_default", "clean_cfg", "get_cfg_default"]


def get_cfg_default():
    """A copy of the default configuration (a yacs CfgNode) to extend, merge into and freeze."""
    return cfg_default.clone()


def clean_cfg(cfg, trainer):
    """Drop from ``cfg.TRAINER`` the nodes of every trainer but `trainer`, so that a printed config is short."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            del cfg.TRAINER[key]
