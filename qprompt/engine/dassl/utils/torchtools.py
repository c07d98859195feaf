"""Freezing, counting and initializing parameters; and checkpoints, which Dassl also has here."""

from torch import nn

from .checkpoints import load_checkpoint, load_pretrained_weights, resume_from_checkpoint, save_checkpoint
from .tools import mkdir_if_missing  # noqa: F401 (Dassl has the name here)

__all__ = [
    "adjust_learning_rate",
    "count_num_param",
    "init_network_weights",
    "load_checkpoint",
    "load_pretrained_weights",
    "open_all_layers",
    "open_specified_layers",
    "resume_from_checkpoint",
    "save_checkpoint",
    "set_bn_to_eval",
]


def adjust_learning_rate(
    optimizer, base_lr, epoch, stepsize=20, gamma=0.1, linear_decay=False, final_lr=0, max_epoch=100
):
    """Set the rate of all groups: by `gamma` every `stepsize` epochs, or linearly from `base_lr` to `final_lr`."""
    share = epoch / max_epoch
    lr = share * final_lr + (1 - share) * base_lr if linear_decay else base_lr * gamma ** (epoch // stepsize)
    for group in optimizer.param_groups:
        group["lr"] = lr


def set_bn_to_eval(m):
    """Put `m` into evaluation mode if it is a batch norm; for ``model.apply(set_bn_to_eval)``."""
    if "BatchNorm" in type(m).__name__:
        m.eval()


def open_all_layers(model):
    """Put all layers into training mode and enable their gradients."""
    model.train()
    for param in model.parameters():
        param.requires_grad = True


def open_specified_layers(model, open_layers):
    """Open the children of `model` named `open_layers` (a name or a list of names) for training; freeze the others."""
    if isinstance(model, nn.DataParallel):
        model = model.module
    names = [open_layers] if isinstance(open_layers, str) else open_layers
    for name in names:
        assert hasattr(model, name), f"{name} is not an attribute"
    for name, child in model.named_children():
        is_open = name in names
        child.train(is_open)
        for param in child.parameters():
            param.requires_grad = is_open


def count_num_param(model=None, params=None):
    """Return the number of entries in the parameters of `model`, or in `params` (tensors or ``{"params": tensor}``)."""
    if model is not None:
        params = model.parameters()
    if params is None:
        raise ValueError("model and params must provide at least one.")
    return sum((p["params"] if isinstance(p, dict) else p).numel() for p in params)


def init_network_weights(model, init_type="normal", gain=0.02):
    """Initialize the layers of a model.

    Biases are set to 0, and batch and instance norms to the identity.

    Args:
        model: a module.
        init_type: normal, xavier, kaiming or orthogonal, for the weights of convolutions and linear layers.
        gain: standard deviation (normal) or gain (xavier, orthogonal).
    """
    initializers = {
        "normal": lambda weight: nn.init.normal_(weight, 0.0, gain),
        "xavier": lambda weight: nn.init.xavier_normal_(weight, gain=gain),
        "kaiming": lambda weight: nn.init.kaiming_normal_(weight, a=0, mode="fan_in"),
        "orthogonal": lambda weight: nn.init.orthogonal_(weight, gain=gain),
    }
    if init_type not in initializers:
        raise ValueError(f"init_type must be one of {list(initializers)}, but got {init_type}")

    def init(module):
        kind = type(module).__name__
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if weight is None:
            return
        if "Conv" in kind or "Linear" in kind:
            initializers[init_type](weight.data)
        elif "BatchNorm" in kind or "InstanceNorm" in kind:
            nn.init.constant_(weight.data, 1.0)
        else:
            return
        if bias is not None:
            nn.init.constant_(bias.data, 0.0)

    model.apply(init)
