"""Top-k accuracy of a batch."""


def compute_accuracy(output, target, topk=(1,)):
    """Percentage of samples whose label is among the k highest logits, for each k of `topk`.

    output: logits (B, C), or a tuple that begins with them. target: labels (B,).
    Returns a list of tensors of shape (1,), one a k.
    """
    if isinstance(output, (tuple, list)):
        output = output[0]
    ranked = output.topk(max(topk), dim=1).indices  # (B, max k)
    hits = ranked == target.view(-1, 1)
    return [hits[:, :k].float().sum().reshape(1) * (100.0 / target.size(0)) for k in topk]
