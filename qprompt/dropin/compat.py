"""What makes code written for torch 1.x, numpy 1.x and a CUDA device run here: the launcher applies it to its process.

Nothing here changes a number that the code would have computed without it: each replaces an exception. The one that
does change numbers, `full_precision`, is asked for by name, or stands in for a half precision that this torch lacks.
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


def numpy_aliases() -> None:
    """``np.int`` and its like, which numpy 1.24 removed."""
    import numpy as np

    for name, builtin in _NUMPY_ALIASES.items():
        if name not in vars(np):
            setattr(np, name, builtin)


class _PkgResources(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Found last: a ``pkg_resources`` with the few names that CLIP packages take from it."""

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


def pkg_resources_stand_in() -> None:
    """``from pkg_resources import packaging``, as OpenAI's CLIP has it, without a setuptools that still brings it."""
    if not any(isinstance(finder, _PkgResources) for finder in sys.meta_path):
        sys.meta_path.append(_PkgResources())


def prograd_step(self: Any, loss_a: Any, loss_b: Any, lambda_: float = 1, names: Any = None) -> None:
    """A ProGrad update (arXiv 2205.14865): the gradient of `loss_a` without what in it opposes that of `loss_b`.

    ProGrad's and KgCoOp's fork of Dassl has it as ``TrainerBase.prograd_backward_and_update``; `lambda_` scales how
    much is taken away, parameter by parameter.
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


def stay_on_cpu() -> None:
    """``.cuda()`` of tensors and modules returns them as they are."""
    import torch

    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]


def full_precision() -> None:
    """``.half()`` of tensors and modules gives float32, so everything is computed in it, whatever PREC says."""
    import torch

    torch.Tensor.half = torch.Tensor.float  # type: ignore[method-assign]
    torch.nn.Module.half = torch.nn.Module.float  # type: ignore[method-assign]


def cpu_lacks_half() -> str | None:
    """Why a network in half precision cannot train on the CPU with this torch; None when it can."""
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
