"""Parameters of a module by name, and their parametrizations."""

import os
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qprompt.errors import UserError, did_you_mean

Kind = TypeVar("Kind", bound=nn.Module)


def require_module(module: Any) -> None:
    """Raise UserError for anything but a module, which says what to type for a tensor."""
    if isinstance(module, Tensor):
        raise UserError(
            f"expected a module, got a tensor of shape {tuple(module.shape)}. Type: holder = torch.nn.Module(); "
            "holder.ctx = torch.nn.Parameter(tensor)"
        )
    if not isinstance(module, nn.Module):
        raise UserError(f"expected a torch.nn.Module, got {type(module).__name__}")


def require_state_dict(state: Any) -> None:
    """Raise UserError for anything but a mapping from names to tensors, which says what to type for a module."""
    if isinstance(state, nn.Module):
        raise UserError("expected a state dict, got a module: type module.state_dict()")
    if not isinstance(state, Mapping):
        hint = ": type torch.load(path, weights_only=True)" if isinstance(state, (str, os.PathLike)) else ""
        raise UserError(f"expected a state dict, got {type(state).__name__} {str(state)[:80]!r}{hint}")


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the submodule that owns a parameter and its name there: ``a.b.ctx`` -> (``a.b``, ``ctx``)."""
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def match_parameters(module: nn.Module, patterns: Iterable[str], exclude: Iterable[str] = ()) -> list[str]:
    """Return the names of the parameters that match one of the glob patterns, without those already parametrized.

    Raises:
        UserError: a pattern matches no parameter, or only parametrized ones.
    """
    require_module(module)
    known = [name for name, _ in module.named_parameters() if ".parametrizations." not in f".{name}"]
    chosen: set[str] = set()
    taken = [name for name, _ in _parametrized(module)]
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        if not isinstance(pattern, str):
            raise UserError(f"a name of a parameter is expected, such as 'ctx', got {type(pattern).__name__}")
        hits = [name for name in known if fnmatchcase(name, pattern)]
        if not hits and (found := [name for name in taken if fnmatchcase(name, pattern)]):
            raise UserError(f"{found[0]} is quantized or parametrized already: call qprompt.dequantize_(module) first")
        if not hits:
            first = sorted(known, key=lambda name: not module.get_parameter(name).requires_grad)  # those that train
            some = ", ".join(first[:12]) + (", ..." if len(first) > 12 else "")
            raise UserError(
                f"no parameter matches {pattern!r}.{did_you_mean(pattern, known)} There are: {some or 'none'}"
            )
        chosen.update(hits)
    excluded = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    return [name for name in known if name in chosen and not any(fnmatchcase(name, p) for p in excluded)]


def check_quantizable(name: str, weight: Tensor) -> None:
    """Raise UserError if half precision, in which levels are stored, cannot hold a value of `weight`."""
    if not weight.is_floating_point():
        raise UserError(f"{name} has type {weight.dtype}, expected a floating-point parameter: leave it out")
    if not bool((weight.abs() <= torch.finfo(torch.float16).max).all()):
        raise UserError(f"{name} holds NaN, infinite or huge values, which half precision cannot hold")


def refuse_tied(module: nn.Module, names: Iterable[str]) -> None:
    """Raise UserError if a parameter has a second name: there it would stay in full precision."""
    places: dict[int, list[str]] = {}
    for prefix, owner in module.named_modules(remove_duplicate=True):
        for leaf, parameter in owner._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append(f"{prefix}.{leaf}" if prefix else leaf)
    for name in names:
        tied = [place for place in places[id(module.get_parameter(name))] if place != name]
        if tied:
            raise UserError(
                f"{name} is also {', '.join(tied)}: quantizing it would leave the other in full precision. Untie them "
                f"({tied[0]} = torch.nn.Parameter({name}.detach().clone())), or leave {name} out."
            )


def parametrizations(module: nn.Module, kind: type[Kind]) -> dict[str, tuple[Kind, nn.Parameter]]:
    """Return name -> (parametrization of that class, its parameter), in the order of the modules."""
    found: dict[str, Any] = {}
    for path, owner in module.named_modules():
        if isinstance(owner, torch.jit.ScriptModule):  # holds other containers, and no parametrizations
            continue
        chains = owner._modules.get("parametrizations")  # hasattr of a module that lacks it is slow
        if not isinstance(chains, nn.ModuleDict):
            continue
        for leaf, chain in chains.items():
            for step in chain:  # type: ignore[attr-defined]
                if isinstance(step, kind):
                    found[f"{path}.{leaf}" if path else leaf] = (step, chain.original)
    return found


def _parametrized(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in module.named_parameters():
        path, inside, rest = f".{name}".partition(".parametrizations.")
        if inside and rest.endswith(".original"):
            yield f"{path}.{rest.removesuffix('.original')}".lstrip("."), parameter


def remove_parametrization(module: nn.Module, name: str, keep_result: bool) -> None:
    """Turn `name` into a plain parameter, with the result of its parametrizations or with the original values."""
    owner, leaf = owner_of(module, name)
    # A deep copy of a parametrized module shares its class, from which torch removes the property; so the class
    # is copied first, else the other module would lose its parameter.
    shared = type(owner)
    attributes = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    owner.__class__ = type(shared.__name__, shared.__bases__, attributes)
    parametrize.remove_parametrizations(owner, leaf, leave_parametrized=keep_result)
