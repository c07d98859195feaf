"""Cross entropy with smoothed labels."""

from torch.nn import functional as F


def cross_entropy(input, target, label_smooth=0, reduction="mean"):
    """Return the cross entropy of logits (B, C) and labels (B,).

    Args:
        input: the logits.
        target: the labels.
        label_smooth: the share of a label that is spread over all classes.
        reduction: "mean", "sum" or "none".
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction {reduction!r}, expected mean, sum or none")
    return F.cross_entropy(input, target, label_smoothing=float(label_smooth), reduction=reduction)
