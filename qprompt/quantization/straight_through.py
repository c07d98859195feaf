"""Gradients of quantized weights: straight-through, and two variants to compare it with."""

import math
from typing import Any

import torch
from torch import Tensor

from qprompt.quantization.codebook import lookup
from qprompt.quantization.encoding import Encoded
from qprompt.quantization.quantizers import grid


def straight_through(weight: Tensor, value: Tensor) -> Tensor:
    """Return W_q with dW_q/dW = 1 (arXiv 2407.10704, section 3.2).

    The result is `value` exactly: the usual ``W + (W_q - W).detach()`` rounds, and would train other values than are
    stored.

    Args:
        weight: W, any shape.
        value: W_q, of the same shape, without a gradient.
    """
    if hasattr(torch, "func"):
        return StraightThrough.apply(weight, value)
    return value + (weight - weight.detach())  # torch 1.13: the same values in more operations


class StraightThrough(torch.autograd.Function):
    """`straight_through` as one operation, which torch.func can transform."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is saved for the backward pass."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def through_sigma(weight: Tensor, encoded: Encoded, codebook: Tensor) -> Tensor:
    """Return zero with the gradient (c[i] - W_hat) dsigma/dW: what straight-through leaves out when mu and sigma count.

    W_q depends on W through sigma = std(W) too; the dependence on mu cancels.

    Args:
        weight: W, any shape.
        encoded: its encoding.
        codebook: c (G, k).
    """
    residual = lookup(codebook, encoded.indices) - encoded.normalized
    sigma = weight.reshape(len(codebook), -1).float().std(-1, correction=0, keepdim=True)
    return (residual * (sigma - sigma.detach())).to(weight.dtype).view(weight.shape)


def through_step_size(weight: Tensor, value: Tensor, encoded: Encoded, step_size: Tensor) -> Tensor:
    """Return W_q with the gradients of a learned step size s (LSQ, arXiv 1902.08153, equation 3).

    dW is that of W_q between the outermost levels and 0 beyond. ds = a * sum(dW_q * sigma * r) with
    r = m[i] - W_hat / s between them and m[i] beyond, and a = 1 / sqrt(L (k - 1) / 2).

    Args:
        weight: W, any shape.
        value: W_q, of the same shape.
        encoded: its encoding; the levels are s * m with m = `grid(k)`.
        step_size: s (G, 1).
    """
    k, n = encoded.levels.shape[1], encoded.normalized.shape[1]
    scaled = encoded.normalized / step_size.detach().abs().clamp(min=1e-30)
    within = scaled.abs() < (k - 1) / 2
    points = lookup(grid(k, scaled.device).expand(len(step_size), -1), encoded.indices)
    slope = encoded.sigma * (points - torch.where(within, scaled, 0.0)) / math.sqrt(n * (k - 1) / 2)
    size = step_size.abs()
    through = slope * (size - size.detach())
    zero = weight - weight.detach()
    return value + zero * within.view(zero.shape) + through.to(value.dtype).view(value.shape)
