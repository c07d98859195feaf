"""Optimizers from ``cfg.OPTIM``."""

import warnings

import torch
from torch import nn

from .radam import RAdam  # noqa: F401 (Dassl has the name here)


def _adam(kind, **fixed):
    return lambda params, cfg: kind(
        params,
        lr=cfg.LR,
        weight_decay=cfg.WEIGHT_DECAY,
        betas=(cfg.ADAM_BETA1, cfg.ADAM_BETA2),
        **fixed,
    )


def _sgd(params, cfg):
    return torch.optim.SGD(
        params,
        lr=cfg.LR,
        momentum=cfg.MOMENTUM,
        weight_decay=cfg.WEIGHT_DECAY,
        dampening=cfg.SGD_DAMPNING,
        nesterov=cfg.SGD_NESTEROV,
    )


def _rmsprop(params, cfg):
    return torch.optim.RMSprop(
        params, lr=cfg.LR, momentum=cfg.MOMENTUM, weight_decay=cfg.WEIGHT_DECAY, alpha=cfg.RMSPROP_ALPHA
    )


OPTIMIZERS = {
    "adam": _adam(torch.optim.Adam),
    "amsgrad": _adam(torch.optim.Adam, amsgrad=True),
    "sgd": _sgd,
    "rmsprop": _rmsprop,
    # Dassl's RAdam has decoupled weight decay, as AdamW has.
    "radam": _adam(torch.optim.RAdam, decoupled_weight_decay=True),
    "adamw": _adam(torch.optim.AdamW),
}
AVAI_OPTIMS = list(OPTIMIZERS)


def _staged_groups(model, optim_cfg):
    """Return parameter groups: children in NEW_LAYERS with the rate LR, the others with LR * BASE_LR_MULT."""
    if not isinstance(model, nn.Module):
        raise TypeError("When staged_lr is True, model given to build_optimizer() must be an instance of nn.Module")
    if isinstance(model, nn.DataParallel):
        model = model.module
    new_layers = optim_cfg.NEW_LAYERS
    new_layers = [new_layers] if isinstance(new_layers, str) else new_layers
    base_params: list[nn.Parameter] = []
    new_params: list[nn.Parameter] = []
    for name, child in model.named_children():
        (new_params if name in new_layers else base_params).extend(child.parameters())
    return [{"params": base_params, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": new_params}]


def build_optimizer(model, optim_cfg, param_groups=None):
    """Return the optimizer named by ``cfg.OPTIM.NAME``.

    Args:
        model: a module, or an iterable of parameters or parameter groups.
        optim_cfg: ``cfg.OPTIM``.
        param_groups: parameter groups to optimize instead of those of `model`.
    """
    if optim_cfg.NAME not in OPTIMIZERS:
        raise ValueError(f"optim must be one of {AVAI_OPTIMS}, but got {optim_cfg.NAME}")
    if param_groups is not None and optim_cfg.STAGED_LR:
        warnings.warn(
            "staged_lr will be ignored, if you need to use staged_lr, please bind it with param_groups yourself.",
            stacklevel=2,
        )
    if param_groups is None:
        if optim_cfg.STAGED_LR:
            param_groups = _staged_groups(model, optim_cfg)
        else:
            param_groups = model.parameters() if isinstance(model, nn.Module) else model
    return OPTIMIZERS[optim_cfg.NAME](param_groups, optim_cfg)
