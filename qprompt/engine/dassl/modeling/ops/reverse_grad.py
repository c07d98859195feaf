"""The gradient reversal layer (arXiv 1409.7495)."""

import torch
from torch import nn


class _ReverseGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, grad_scaling):
        ctx.grad_scaling = grad_scaling
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.grad_scaling * gradient, None


reverse_grad = _ReverseGrad.apply


class ReverseGrad(nn.Module):
    """Returns its input; the gradient changes its sign and is multiplied by `grad_scaling`."""

    def forward(self, x, grad_scaling=1.0):
        """Return `x`."""
        assert grad_scaling >= 0, f"grad_scaling must not be negative, got {grad_scaling}"
        return reverse_grad(x, grad_scaling)
