"""The registry of backbones, and how one is built."""

from ...utils import Registry
from ..building import build

BACKBONE_REGISTRY = Registry("BACKBONE")


def build_backbone(name, verbose=True, **kwargs):
    """Return the registered backbone `name`, made with the other arguments."""
    return build(BACKBONE_REGISTRY, "backbone", name, verbose, kwargs)
