"""The base class of meta-learners."""

from torch import nn


class BaseLearner(nn.Module):
    """A module around ``self.module``, whose attributes it has too."""

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)
