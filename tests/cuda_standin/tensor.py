"""Tensors that say ``cuda:0`` and hold their values on the CPU."""

import contextlib
import functools
import os
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _foreach_supported_types
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_standin import record
from cuda_standin.kernels import KERNELS

aten = torch.ops.aten
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
# These copy between devices, or take indices from the CPU.
MAY_MIX = {aten._to_copy.default, aten.copy_.default, aten.set_.source_Tensor, *record.INDEXED}
_initialized_in: int | None = None  # the process that first used the device


class StandinTensor(Tensor):
    """A tensor of the stand-in device.

    Attributes:
        inner: the values, on the CPU.
    """

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> "StandinTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
            requires_grad=requires_grad,
        )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"StandinTensor({self.inner!r})"

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> "StandinTensor":
        new = StandinTensor(self.inner.detach().clone(), self.requires_grad)
        if getattr(self, "_is_param", False):
            new._is_param = True
        memo[id(self)] = new
        return new

    def __reduce_ex__(self, protocol: int) -> Any:
        values = self.inner.detach()
        if getattr(self, "_is_param", False):
            values = torch.nn.Parameter(values, self.requires_grad)
        return values.__reduce_ex__(protocol)


def on_device(x: Any) -> bool:
    """Return whether `x` is a tensor of the stand-in."""
    return isinstance(x, StandinTensor)


def initialize() -> None:
    """Do what the first use of CUDA does: from now on, forks of this process cannot use it."""
    global _initialized_in
    if in_bad_fork():
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess.")
    _initialized_in = os.getpid()


def in_bad_fork() -> bool:
    return _initialized_in not in (None, os.getpid())


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute one operation on the CPU, having checked that CUDA could do it.

    Raises:
        RuntimeError: it mixes devices, has no CUDA kernel, or runs in a fork of a process that has used CUDA.
    """
    if func is torch.ops.prim.device.default:
        return CUDA
    flat = list(_flat((args, tuple(kwargs.values()))))
    asked = kwargs.get("device")
    target = None if asked is None else torch.device(asked).type
    if target != "cuda" and not any(map(on_device, flat)):
        return func(*args, **kwargs)
    initialize()
    record.note(func, args, kwargs, on_device, target)
    _check(func, flat)
    args_inside = _inside(args)
    kwargs_inside = {name: _inside(value) for name, value in kwargs.items()}
    if target == "cuda":
        kwargs_inside["device"] = CPU
    out = KERNELS.get(func, func)(*args_inside, **kwargs_inside)
    if target == "cpu" or func._opname in ("_local_scalar_dense", "equal"):
        return out.clone() if isinstance(out, Tensor) and out is args_inside[0] else out
    if func is aten.copy_.default and not on_device(args[0]):
        return args[0]
    written = [a for i, a in enumerate(func._schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    if written and all(r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns):
        names = [argument.name for argument in func._schema.arguments]
        given = [args[i] if (i := names.index(a.name)) < len(args) else kwargs[a.name] for a in written]
        if torch.Tag.inplace_view in func.tags:
            with no_dispatch():
                func(*args, **kwargs)  # the shape of the stand-in changes too (squeeze_)
        if func._opname.startswith("_foreach_"):
            for tensor in given[0]:
                torch.autograd.graph.increment_version(tensor)  # as the kernels themselves do (not those of _fused_)
        if isinstance(out, Tensor):
            return given[0]
        return None if out is None else type(out)(given)
    return _outside(out)


def _flat(x: Any) -> Iterator[Any]:
    """Yield what nested tuples and lists hold (arguments of operations have nothing else; quicker than pytree)."""
    if isinstance(x, (tuple, list)):
        for each in x:
            yield from _flat(each)
    else:
        yield x


def _inside(x: Any) -> Any:
    """Return `x` with the CPU tensors that stand-ins hold."""
    if isinstance(x, StandinTensor):
        return x.inner
    return type(x)(map(_inside, x)) if type(x) in (tuple, list) else x


def _outside(x: Any) -> Any:
    """Return `x` with CPU tensors in stand-ins."""
    if isinstance(x, Tensor):
        return x if on_device(x) else StandinTensor(x)
    return type(x)(map(_outside, x)) if type(x) in (tuple, list) else x


def _check(func: Any, flat: list[Any]) -> None:
    on_cpu = [x for x in flat if isinstance(x, Tensor) and not on_device(x) and x.dim() > 0]
    if func not in MAY_MIX and on_cpu and any(map(on_device, flat)):
        shapes = ", ".join(str(tuple(x.shape)) for x in on_cpu)
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({func}, on the CPU: {shapes}) at {record.place()}"
        )
    if not _has_kernel(func):
        raise RuntimeError(f"{func} has no CUDA kernel, at {record.place()}")


@functools.cache
def _has_kernel(func: Any) -> bool:
    keys = ("CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key) for key in keys)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def _moves(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return torch.tensor or torch.as_tensor; they copy to a device below the level of dispatch."""

    def call(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if device is None or torch.device(device).type != "cuda" or isinstance(data, Tensor):
            return make(data, *args, device=device, **kwargs)
        return make(data, *args, **kwargs).to(device)

    return call


def _pin(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    self._standin_is_pinned = True
    return self


@contextlib.contextmanager
def standin(name: str = "stand-in") -> Iterator[None]:
    """Within the context, this process has one CUDA device.

    Args:
        name: of the device.
    """
    from unittest.mock import patch

    cuda = torch.cuda
    index = cuda._utils._get_device_index
    random_state = torch.zeros(16, dtype=torch.uint8)

    def checked(value: Any) -> Callable[..., Any]:
        def call(device: Any = None) -> Any:
            index(device, optional=True)
            initialize()
            return value

        return call

    replaced = {
        "_lazy_init": initialize,
        "is_initialized": lambda: _initialized_in is not None,
        "_is_in_bad_fork": in_bad_fork,
        "synchronize": lambda device=None: None,
        "get_device_name": checked(name),
        "get_device_capability": checked((int(os.environ["STANDIN_SM"]) // 10, int(os.environ["STANDIN_SM"]) % 10)),
        "get_device_properties": checked(types.SimpleNamespace(name=name, total_memory=80_000_000_000)),
        "cudart": lambda: types.SimpleNamespace(cudaMemGetInfo=checked((70_000_000_000, 80_000_000_000))),
        "max_memory_allocated": checked(0),
        "get_rng_state_all": lambda: [random_state],
        "set_rng_state": lambda *args: None,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "set_device": lambda device: None,
    }
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        for attribute, value in replaced.items():
            stack.enter_context(patch.object(cuda, attribute, value))
        for check in ("_cuda_graph_capture_health_check", "_accelerator_graph_capture_health_check"):  # by version
            if hasattr(torch.optim.Optimizer, check):
                stack.enter_context(patch.object(torch.optim.Optimizer, check, lambda self: None))
        for maker in ("tensor", "as_tensor"):
            stack.enter_context(patch.object(torch, maker, _moves(getattr(torch, maker))))
        stack.enter_context(patch.object(Tensor, "pin_memory", _pin))
        stack.enter_context(patch.object(Tensor, "is_pinned", lambda self: hasattr(self, "_standin_is_pinned")))
        _foreach_supported_types.append(StandinTensor)
        stack.callback(_foreach_supported_types.remove, StandinTensor)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.enter_context(_Mode())
        yield
