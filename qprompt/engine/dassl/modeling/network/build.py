"""The registry of networks, and how one is built."""

from ...utils import Registry
from ..building import build

NETWORK_REGISTRY = Registry("NETWORK")


def build_network(name, verbose=True, **kwargs):
    """Return the registered network `name`, made with the other arguments."""
    return build(NETWORK_REGISTRY, "network", name, verbose, kwargs)
