"""The base class of backbones."""

from torch import nn


class Backbone(nn.Module):
    """A network that returns features; it sets ``_out_features``, their width."""

    def forward(self):
        """Return the features of images."""

    @property
    def out_features(self):
        """The width of the features, or None if it is not set."""
        return vars(self).get("_out_features")
