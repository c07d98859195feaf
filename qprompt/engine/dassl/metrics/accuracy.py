"""Top-k accuracy."""


def compute_accuracy(output, target, topk=(1,)):
    """Return the percentage of samples with the label among the k highest logits.

    Args:
        output: logits (B, C), or a tuple with the logits first.
        target: labels (B,).
        topk: values of k.

    Returns:
        A list of tensors (1,), one per k.
    """
    if isinstance(output, (tuple, list)):
        output = output[0]
    ranked = output.topk(max(topk), dim=1).indices  # (B, max k)
    hits = ranked == target.view(-1, 1)
    return [hits[:, :k].float().sum().reshape(1) * (100.0 / target.size(0)) for k in topk]
