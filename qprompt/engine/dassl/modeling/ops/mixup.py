"""Mixup (arXiv 1710.09412)."""

import torch


def mixup(x1, x2, y1, y2, beta, preserve_order=False):
    """Return mixtures of images (B, C, H, W) and of labels (B, N), each pair in its own proportion.

    Args:
        x1, x2: images.
        y1, y2: their labels, as vectors.
        beta: both parameters of the Beta distribution of the share of `x1`.
        preserve_order: whether the share of `x1` is at least one half.
    """
    share = torch.distributions.Beta(beta, beta).sample((len(x1), 1, 1, 1))
    if preserve_order:
        share = share.maximum(1 - share)
    share = share.to(x1.device)
    of_labels = share.flatten(1)
    return share * x1 + (1 - share) * x2, of_labels * y1 + (1 - of_labels) * y2
