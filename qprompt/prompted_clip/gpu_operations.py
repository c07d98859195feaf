"""Operations of CLIP's layers that launch few kernels on a GPU, where a short step waits for its launches.

On a CPU, where arithmetic decides, the model's own modules compute. The two are equal to rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from torch.utils.weak import WeakIdKeyDictionary
except ModuleNotFoundError:  # PyTorch 1.13, on which the launcher runs
    WeakIdKeyDictionary = dict  # type: ignore[assignment,misc]

HALF = (torch.float16, torch.bfloat16)
STEEPNESS = 1.702  # of QuickGELU
_CURRENT = hasattr(torch, "get_autocast_dtype")  # since PyTorch 2.4, as is all that is needed here
_derived = WeakIdKeyDictionary()  # frozen parameter -> {what: (version of the parameter, the derived tensor)}


def launches_decide(device: torch.device) -> bool:
    """Return whether fewer kernels are worth more than less arithmetic on a device."""
    return device.type != "cpu" and _CURRENT


@contextmanager
def attention_kernels(device: torch.device) -> Iterator[None]:
    """Within the context, attention on a CUDA device does not use cuDNN.

    On GPUs of compute capability 9.0, newer versions of PyTorch prefer cuDNN's attention. Its backward pass is reported
    to return NaN with a mask for key lengths of 64 modulo 128, and for one query; our rows have any such lengths.
    Without cuDNN, PyTorch takes flash attention without a mask and the memory-efficient kernel with one. What somebody
    else switched off stays off.
    """
    cuda: Any = torch.backends.cuda
    usable = device.type == "cuda" and hasattr(cuda, "cudnn_sdp_enabled") and not torch.compiler.is_compiling()
    others = usable and (cuda.flash_sdp_enabled() or cuda.mem_efficient_sdp_enabled() or cuda.math_sdp_enabled())
    if not (others and cuda.cudnn_sdp_enabled()):
        yield
        return
    cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        cuda.enable_cudnn_sdp(True)


def layer_norm(module: Any, x: Tensor) -> Tensor:
    """Compute ``module(x)`` for CLIP's LayerNorm, which converts half precision to fp32 and back.

    PyTorch's kernel for half precision computes in fp32 too, but takes weights in half precision: the result differs by
    the rounding of the weights, which is as large as that of the result.
    """
    plain = not launches_decide(x.device) or x.dtype not in HALF or type(module).__name__ != "LayerNorm"
    if plain or has_hooks(module) or module.weight.requires_grad:
        return module(x)
    weight, bias = (derived(p, x.dtype, lambda p: p.to(x.dtype)) for p in (module.weight, module.bias))
    with torch.autocast(x.device.type, enabled=False):  # it would convert to fp32
        return F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


def derived(parameter: Tensor, what: Any, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``make(parameter)`` for a frozen parameter; it is computed again only after a change.

    Args:
        parameter: Of the frozen model.
        what: Tells the tensors apart that are derived from one parameter.
        make: Computes the tensor.
    """
    if torch.compiler.is_compiling() or parameter.is_inference():  # changes of such a tensor are not counted
        return make(parameter.detach())
    version, known = (parameter._version, parameter.data_ptr()), _derived.setdefault(parameter, {})
    if what not in known or known[what][0] != version:
        with torch.inference_mode(False):  # what is made in it cannot be saved for a backward pass
            known[what] = version, make(parameter.detach())
    return known[what][1]


def has_hooks(module: Any) -> bool:
    """Return whether somebody wants to see or change what a module computes."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def computing_type(x: Tensor) -> torch.dtype:
    """Return the type in which matrix products with x are computed."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class FrozenMLP(torch.autograd.Function):
    """CLIP's MLP of frozen layers: x (M, D) -> W2 QuickGELU(W1 x + b1) + b2.

    QuickGELU(h) = h sigmoid(1.702 h) = silu(1.702 h) / 1.702. The factors are those of the matrix products, in which
    they cost nothing, and cancel in the gradient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight_1: Tensor, steep_bias_1: Tensor, weight_2: Tensor, bias_2: Tensor) -> Any:
        hidden = torch.addmm(steep_bias_1, x, weight_1.t(), alpha=STEEPNESS)
        return torch.addmm(bias_2, F.silu(hidden), weight_2.t(), alpha=1 / STEEPNESS), hidden

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[1], inputs[3], output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
        weight_1, weight_2, hidden = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad.to(hidden.dtype) @ weight_2, hidden) @ weight_1, None, None, None, None


def mlp(modules: Any, x: Tensor) -> Tensor | None:
    """Compute CLIP's MLP (B, n, D) -> (B, n, D) in three kernels; None if it is not CLIP's, frozen and on a GPU."""
    layers = list(modules)
    if not launches_decide(x.device) or [type(m).__name__ for m in layers] != ["Linear", "QuickGELU", "Linear"]:
        return None
    weights = [p for m in (layers[0], layers[2]) for p in (m.weight, m.bias)]
    if any(map(has_hooks, layers)) or any(p is None or p.requires_grad for p in weights):
        return None
    if any(p.dtype != computing_type(x) for p in weights):
        return None
    weights[1] = derived(weights[1], "steep", lambda bias: (STEEPNESS * bias.float()).to(bias.dtype))
    return FrozenMLP.apply(x.flatten(0, -2), *weights)[0].unflatten(0, x.shape[:-1])


def unit_length(x: Tensor) -> Tensor:
    """Return rows (..., E) divided by their length, with two kernels and one for the gradient."""
    if torch.compiler.is_compiling():  # torch 2.4 cannot compile the operation below
        return x / x.norm(dim=-1, keepdim=True)
    rows = x.flatten(0, -2)
    return torch._weight_norm(rows, rows.new_ones(len(rows), 1)).view_as(x)


def aligned(mask: Tensor) -> Tensor:
    """Return a mask whose rows start at multiples of 16 entries, as the fused kernels want; else each call pads it."""
    columns = mask.shape[-1]
    return F.pad(mask, (0, -columns % 16))[..., :columns]
