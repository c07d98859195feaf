"""Products with frozen weights, through the faster of the two libraries that PyTorch has for them on a CPU.

PyTorch multiplies fp32 matrices with MKL. On an AMD EPYC with AVX-512, oneDNN, which comes with PyTorch too, is twice
as fast (benchmarks/products.py). No other CPU was at hand; Intel's are left to Intel's own library.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear as linear_of_torch  # bound here: `qprompt --fast` puts ours in its place

CPUINFO = Path("/proc/cpuinfo")
SMALLEST = 1 << 22  # multiplications: in smaller products a call of oneDNN costs more than it gains


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` to rounding: rows x (..., K) with weight (N, K) and bias (N,)."""
    if not _takes_onednn(x, weight, bias):
        return linear_of_torch(x, weight, bias)
    rows = _Linear.apply(x.flatten(0, -2), weight, bias)
    return rows.unflatten(0, x.shape[:-1])


def _takes_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        x.device.type == "cpu"
        and x.dim() > 1
        and x.dtype == weight.dtype == torch.float32
        and not torch.compiler.is_compiling()  # nor exporting: then any number of rows is one graph
        and x.numel() * len(weight) >= SMALLEST
        and not (torch.is_grad_enabled() and (weight.requires_grad or bias is not None and bias.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and onednn_is_faster()
        and bool(torch.backends.mkldnn.enabled)
    )


class _Linear(torch.autograd.Function):
    """Rows (M, K) -> (M, N); no gradient for the weight."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _multiply(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Linear.apply(grad, ctx.saved_tensors[0].t(), None), None, None


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this is an AVX-512 CPU that is not Intel's, and a PyTorch with MKL, and oneDNN to call instead."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # what torch.compile calls; no public function does this
        and "GenuineIntel" not in _vendor()
    )


def _vendor() -> str:
    try:
        lines = CPUINFO.read_text().splitlines()
        return next(line for line in lines if line.startswith("vendor_id"))
    except (OSError, StopIteration):
        return platform.processor()
