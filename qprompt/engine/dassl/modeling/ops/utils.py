"""Labels as vectors, orders of batches, schedules and moving averages."""

import math

import torch
from torch.nn import functional as F


def sharpen_prob(p, temperature=2):
    """Return the probabilities (B, N) to the power of `temperature`, with sums of one."""
    powers = p**temperature
    return powers / powers.sum(1, keepdim=True)


def reverse_index(data, label):
    """Return data and labels in reverse order."""
    return data.flip(0), label.flip(0)


def shuffle_index(data, label):
    """Return data and labels in a common random order."""
    order = torch.randperm(len(data))
    return data[order], label[order]


def create_onehot(label, num_classes):
    """Return the labels (B,) as vectors (B, num_classes) of zeros and a one, in float32."""
    return F.one_hot(label.long(), num_classes).float()


def sigmoid_rampup(current, rampup_length):
    """Return exp(-5 (1 - t)^2), where t rises from 0 to 1 in `rampup_length` steps."""
    return math.exp(-5 * (1 - linear_rampup(current, rampup_length)) ** 2)


def linear_rampup(current, rampup_length):
    """Return t, which rises from 0 to 1 in `rampup_length` steps."""
    assert rampup_length > 0, f"rampup_length must be positive, got {rampup_length}"
    return float(min(max(current / rampup_length, 0.0), 1.0))


@torch.no_grad()
def ema_model_update(model, ema_model, alpha):
    """Move each parameter of `ema_model` to alpha times itself plus (1 - alpha) times that of `model`."""
    for mean, parameter in zip(ema_model.parameters(), model.parameters(), strict=False):
        mean.mul_(alpha).add_(parameter, alpha=1 - alpha)
