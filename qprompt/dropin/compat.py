"""Make code written for torch 1.x, numpy 1.x and a CUDA device run in the launcher's process.

Each function replaces an exception and changes no result. Only `use_full_precision` changes results; it needs a flag,
or a torch that cannot train in half precision on the CPU.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str}


def add_numpy_aliases() -> None:
    """Restore ``np.int``, ``np.float`` and the other aliases that numpy 1.24 removed."""
    import numpy as np

    for name, builtin in _NUMPY_ALIASES.items():
        if name not in vars(np):
            setattr(np, name, builtin)


class _PkgResources(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Provide a ``pkg_resources`` with the names that CLIP packages import, where no other finder has one."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if fullname != "pkg_resources":
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return types.ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        packaging = importlib.import_module("packaging")
        module.packaging = packaging  # type: ignore[attr-defined]
        module.parse_version = importlib.import_module("packaging.version").parse  # type: ignore[attr-defined]


def add_pkg_resources() -> None:
    """Make ``from pkg_resources import packaging``, as in OpenAI's CLIP, work without an old setuptools."""
    if not any(isinstance(finder, _PkgResources) for finder in sys.meta_path):
        sys.meta_path.append(_PkgResources())


def prograd_step(self: Any, loss_a: Any, loss_b: Any, lambda_: float = 1, names: Any = None) -> None:
    """Make a ProGrad update (arXiv 2205.14865), ``TrainerBase.prograd_backward_and_update`` in ProGrad's Dassl fork.

    Where the gradients of a parameter oppose each other, the component of `loss_a`'s gradient along `loss_b`'s is
    removed.

    Args:
        self: the trainer.
        loss_a: the loss to minimize.
        loss_b: the loss that must not increase.
        lambda_: the share of the opposing component to remove.
        names: the registered models to update; all by default.
    """
    import torch

    names = self.get_model_names(names)
    parameters = [p for name in names for p in self._models[name].parameters() if p.requires_grad]
    self.detect_anomaly(loss_a)
    self.detect_anomaly(loss_b)
    general = torch.autograd.grad(loss_b, parameters, retain_graph=True)
    for p, own, other in zip(parameters, torch.autograd.grad(loss_a, parameters), general, strict=True):
        direction = other / other.norm()
        along = (own * direction).sum()
        p.grad = own - lambda_ * along * direction if along < 0 else own
    self.model_update(names)


_FACTORIES = (
    *("arange", "as_tensor", "empty", "empty_like", "eye", "full", "full_like", "linspace", "ones", "ones_like"),
    *("rand", "rand_like", "randint", "randn", "randn_like", "randperm", "tensor", "zeros", "zeros_like"),
)


def _on_cpu(device: Any) -> Any:
    """Return the CPU for a CUDA device in any notation, and anything else unchanged."""
    import torch

    index = isinstance(device, int) and not isinstance(device, bool)
    if index or (isinstance(device, (str, torch.device)) and str(device).partition(":")[0] == "cuda"):
        return torch.device("cpu")
    return device


def _without_cuda(function: Any, first: bool = False) -> Any:
    """Wrap a function that takes ``device=``, or a device as its first argument after self."""
    import functools

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        if "device" in options:
            options["device"] = _on_cpu(options["device"])
        if first and len(args) > 1:
            args = (args[0], _on_cpu(args[1]), *args[2:])
        return function(*args, **options)

    wrapper.of_qprompt = True  # type: ignore[attr-defined]
    return wrapper


def stay_on_cpu() -> None:
    """Make ``.cuda()``, ``.to("cuda:0")``, ``device="cuda"`` and loading to a GPU use the CPU."""
    import torch

    for kind in (torch.Tensor, torch.nn.Module):
        kind.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
        if not hasattr(kind.to, "of_qprompt"):
            kind.to = _without_cuda(kind.to, first=True)  # type: ignore[method-assign]
    for name in _FACTORIES:
        if not hasattr(getattr(torch, name), "of_qprompt"):
            setattr(torch, name, _without_cuda(getattr(torch, name)))
    if not hasattr(torch.load, "of_qprompt"):
        load = torch.load

        def load_on_cpu(f: Any, map_location: Any = None, *args: Any, **options: Any) -> Any:
            return load(f, _on_cpu("cuda" if map_location is None else map_location), *args, **options)

        load_on_cpu.of_qprompt = True  # type: ignore[attr-defined]
        torch.load = load_on_cpu
    torch.cuda.set_device = lambda device: None
    torch.cuda.synchronize = lambda device=None: None


def use_full_precision() -> None:
    """Make ``.half()`` return float32, so that everything is computed in float32, whatever PREC says."""
    import torch

    torch.Tensor.half = torch.Tensor.float  # type: ignore[method-assign]
    torch.nn.Module.half = torch.nn.Module.float  # type: ignore[method-assign]


def half_error_on_cpu() -> str | None:
    """Return the error with which this torch fails to train in half precision on the CPU, or None if it can."""
    import torch
    from torch.nn import functional as F

    try:
        x = torch.ones(1, 3, 4, 4, dtype=torch.float16)
        weight = torch.ones(4, 3, 2, 2, dtype=torch.float16, requires_grad=True)
        tokens = F.conv2d(x, weight, stride=2).flatten(2).permute(0, 2, 1)
        attention = (tokens @ tokens.transpose(1, 2)).softmax(-1)
        F.cross_entropy((attention @ tokens).mean(1) * torch.sigmoid(tokens[:, 0]), torch.tensor([0])).backward()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None
