"""Running means of the numbers that a training loop prints."""

from collections import defaultdict

import torch

__all__ = ["AverageMeter", "MetricMeter"]


def _number(value):
    return value.item() if isinstance(value, torch.Tensor) else value


class AverageMeter:
    """Last value (``val``), ``sum``, ``count`` and mean (``avg``) of a number.

    Args:
        ema: average exponentially, with the weights 0.9 (old) and 0.1 (new), starting from 0.
    """

    def __init__(self, ema=False):
        self.ema = ema
        self.reset()

    def reset(self):
        """Set everything to 0."""
        self.val = self.avg = self.sum = 0.0
        self.count = 0

    def update(self, val, n=1):
        """Add `val`, the mean of `n` samples."""
        self.val = _number(val)
        self.sum += self.val * n
        self.count += n
        self.avg = 0.9 * self.avg + 0.1 * self.val if self.ema else self.sum / self.count


class MetricMeter:
    """An `AverageMeter` per name. Its string is ``loss 0.1234 (0.2345) acc ...``: last values and means."""

    def __init__(self, delimiter=" "):
        self.meters = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict):
        """Add ``{name: number or one-element tensor}``; None adds nothing."""
        if input_dict is None:
            return
        if not isinstance(input_dict, dict):
            raise TypeError(f"MetricMeter.update() expects a dictionary of numbers, got {type(input_dict).__name__}")
        for name, value in input_dict.items():
            self.meters[name].update(value)

    def __str__(self):
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())
