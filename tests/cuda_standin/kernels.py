"""Operations of CUDA for which the CPU has no kernel: fused attention, forward and backward, and cuDNN's batch norm."""

import torch
from torch import Tensor

aten = torch.ops.aten


def _weights(query: Tensor, key: Tensor, bias: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    weights = (query.float() @ key.float().transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        weights = weights + torch.full(weights.shape[-2:], float("-inf")).triu(1)
    return weights if bias is None else weights + bias.float()


def _forward(query, key, value, bias, causal, scale) -> tuple[Tensor, Tensor]:
    weights = _weights(query, key, bias, causal, scale)
    out = (weights.softmax(-1) @ value.float()).to(query.dtype)
    return out.transpose(1, 2).contiguous().transpose(1, 2), weights.logsumexp(-1)  # the kernels' strides


def _backward(grad, query, key, value, bias, causal, scale) -> tuple[Tensor, Tensor, Tensor]:
    probability = _weights(query, key, bias, causal, scale).softmax(-1)
    grad = grad.float()
    into = grad @ value.float().transpose(-1, -2)
    into = probability * (into - (into * probability).sum(-1, keepdim=True))
    into = into * (query.shape[-1] ** -0.5 if scale is None else scale)
    return (
        (into @ key.float()).to(query.dtype),
        (into.transpose(-1, -2) @ query.float()).to(key.dtype),
        (probability.transpose(-1, -2) @ grad).to(value.dtype),
    )


def _seed() -> Tensor:
    return torch.zeros((), dtype=torch.int64)


def efficient(query, key, value, bias, compute_log_sumexp, dropout=0.0, causal=False, *, scale=None):
    return *_forward(query, key, value, bias, causal, scale), _seed(), _seed()


def efficient_backward(
    grad, query, key, value, bias, out, logsumexp, seed, offset, dropout, mask, causal=False, *, scale=None
):
    return *_backward(grad, query, key, value, bias, causal, scale), None


def flash(query, key, value, dropout=0.0, causal=False, debug=False, *, scale=None):
    out, logsumexp = _forward(query, key, value, None, causal, scale)
    return out, logsumexp, None, None, query.shape[-2], key.shape[-2], _seed(), _seed(), torch.empty(0)


def flash_backward(
    grad, query, key, value, out, logsumexp, cum_q, cum_k, max_q, max_k, dropout, causal, seed, offset, *, scale=None
):
    return _backward(grad, query, key, value, None, causal, scale)


def cudnn(query, key, value, bias, compute_log_sumexp, dropout=0.0, causal=False, debug=False, *, scale=None):
    out, logsumexp = _forward(query, key, value, bias, causal, scale)
    return out, logsumexp, None, None, query.shape[-2], key.shape[-2], _seed(), _seed(), torch.empty(0)


def cudnn_backward(
    grad,
    query,
    key,
    value,
    out,
    logsumexp,
    seed,
    offset,
    bias,
    cum_q,
    cum_k,
    max_q,
    max_k,
    dropout,
    causal,
    *,
    scale=None,
):
    return _backward(grad, query, key, value, bias, causal, scale)


def batch_norm(x, weight, bias, mean, variance, training, momentum, epsilon):
    return *torch.native_batch_norm(x, weight, bias, mean, variance, training, momentum, epsilon), torch.empty(0)


_KERNELS = {
    "cudnn_batch_norm": batch_norm,
    "_scaled_dot_product_efficient_attention": efficient,
    "_scaled_dot_product_efficient_attention_backward": efficient_backward,
    "_scaled_dot_product_flash_attention": flash,
    "_scaled_dot_product_flash_attention_backward": flash_backward,
    "_scaled_dot_product_cudnn_attention": cudnn,
    "_scaled_dot_product_cudnn_attention_backward": cudnn_backward,
}
# PyTorch 2.4 has no backward of cuDNN attention under this signature; what a version lacks is not replaced.
KERNELS = {getattr(aten, name).default: kernel for name, kernel in _KERNELS.items() if hasattr(aten, name)}
