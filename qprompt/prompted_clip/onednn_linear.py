"""Linear layers with frozen weights through oneDNN, on CPUs where it is faster than PyTorch's default library.

PyTorch multiplies fp32 matrices with MKL. On an AMD EPYC with AVX-512, oneDNN, which is also part of PyTorch, is twice
as fast (benchmarks/products.py). Other CPUs were not measured; Intel CPUs use MKL, Intel's own library.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear as torch_linear  # bound here, because `qprompt --fast` replaces it

CPUINFO = Path("/proc/cpuinfo")
MIN_MULTIPLICATIONS = 1 << 22  # for fewer, a call of oneDNN costs more than it saves


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``F.linear``, equal up to rounding: x (..., K), weight (N, K) and bias (N,) -> (..., N)."""
    if not _use_onednn(x, weight, bias):
        return torch_linear(x, weight, bias)
    rows = _Linear.apply(x.flatten(0, -2), weight, bias)
    return rows.unflatten(0, x.shape[:-1])


def _use_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        x.device.type == "cpu"
        and x.dim() > 1
        and x.dtype == weight.dtype == torch.float32
        and not torch.compiler.is_compiling()  # nor exporting: one graph has to serve any number of rows
        and x.numel() * len(weight) >= MIN_MULTIPLICATIONS
        and not (torch.is_grad_enabled() and (weight.requires_grad or bias is not None and bias.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and onednn_is_faster()
        and bool(torch.backends.mkldnn.enabled)
    )


class _Linear(torch.autograd.Function):
    """x (M, K) -> (M, N), without a gradient for the weight."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _multiply(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Linear.apply(grad, ctx.saved_tensors[0].t(), None), None, None


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@functools.cache
def onednn_is_faster() -> bool:
    """Return whether this is a CPU with AVX-512 that is not Intel's, and a PyTorch with both MKL and oneDNN."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # torch.compile calls it; there is no public function
        and "GenuineIntel" not in _vendor()
    )


def _vendor() -> str:
    try:
        lines = CPUINFO.read_text().splitlines()
        return next(line for line in lines if line.startswith("vendor_id"))
    except (OSError, StopIteration):
        return platform.processor()
