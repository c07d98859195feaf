"""Heads of fully connected layers."""

from collections.abc import Sequence

from torch import nn

from .build import HEAD_REGISTRY

_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


class MLP(nn.Module):
    """Layers of the widths `hidden_layers`, each with batch normalization, an activation and dropout."""

    def __init__(
        self,
        in_features: int = 2048,
        hidden_layers: int | Sequence[int] = (),
        activation: str = "relu",
        bn: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [hidden_layers] if isinstance(hidden_layers, int) else list(hidden_layers)
        assert widths, "hidden_layers is empty"
        if activation not in _ACTIVATIONS:
            raise NotImplementedError(f"activation {activation!r}, expected one of {', '.join(_ACTIVATIONS)}")
        layers: list[nn.Module] = []
        for before, width in zip([in_features, *widths[:-1]], widths, strict=True):
            layers.append(nn.Linear(before, width))
            layers += [nn.BatchNorm1d(width)] if bn else []
            layers.append(_ACTIVATIONS[activation](inplace=True))
            layers += [nn.Dropout(dropout)] if dropout > 0 else []
        self.out_features = widths[-1]
        self.mlp = nn.Sequential(*layers)

    def forward(self, x):
        """Return the features (B, out_features) of features (B, in_features)."""
        return self.mlp(x)


@HEAD_REGISTRY.register()
def mlp(**kwargs):
    """Return an `MLP`."""
    return MLP(**kwargs)
