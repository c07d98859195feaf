"""Distances between the rows of two matrices."""

from torch.nn import functional as F


def euclidean_squared_distance(input1, input2):
    """Return the squared Euclidean distances (n, m) between the rows of input1 (n, D) and input2 (m, D)."""
    norms = input1.pow(2).sum(1, keepdim=True) + input2.pow(2).sum(1)  # |a|^2 + |b|^2
    return norms.addmm(input1, input2.t(), alpha=-2)


def cosine_distance(input1, input2):
    """Return one minus the cosine similarity (n, m) of the rows of input1 (n, D) and input2 (m, D)."""
    return 1 - F.normalize(input1, dim=1) @ F.normalize(input2, dim=1).t()


METRICS = {"euclidean": euclidean_squared_distance, "cosine": cosine_distance}


def compute_distance_matrix(input1, input2, metric="euclidean"):
    """Return the distances (n, m) between the rows of input1 (n, D) and input2 (m, D); `metric`: a key of METRICS."""
    if metric not in METRICS:
        raise ValueError(f"Unknown distance metric: {metric}. Please choose one of {list(METRICS)}")
    for matrix in (input1, input2):
        assert matrix.dim() == 2, f"Expected 2-D tensor, but got {matrix.dim()}-D"
    assert input1.size(1) == input2.size(1), f"{input1.size(1)} and {input2.size(1)} columns"
    return METRICS[metric](input1, input2)
