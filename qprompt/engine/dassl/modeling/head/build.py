"""The registry of heads, and how one is built."""

from ...utils import Registry
from ..building import build

HEAD_REGISTRY = Registry("HEAD")


def build_head(name, verbose=True, **kwargs):
    """Return the registered head `name`, made with the other arguments."""
    return build(HEAD_REGISTRY, "head", name, verbose, kwargs)
