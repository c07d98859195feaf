"""Choose the tensors to quantize in a third-party trainer, which does not name them.

A parameter is quantized if all three conditions hold:

1. It is trained: it requires a gradient, and an optimizer of the trainer holds it.
2. It belongs to a prompt: its name contains one of `WORDS` (``prompt_learner.proj.weight``, ``visual.VPT``).
3. It has at least two dimensions: biases, norms and scalars stay in half precision, as in the paper's count.

``TRAINER.QUANT.INCLUDE`` replaces these conditions by patterns of names, ``TRAINER.QUANT.EXCLUDE`` excludes names.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from qprompt.errors import UserError
from qprompt.quantization.api import quantized_parameters

WORDS = ("prompt", "ctx", "context", "vpt")


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside wrappers such as DataParallel and AveragedModel, which hold it as ``.module``."""
    inner = getattr(module, "module", None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


def modules_of(trainer: Any) -> dict[str, nn.Module]:
    """Return the registered models and all other modules that are attributes of the trainer, each module once."""
    found = {**trainer._models, **{k: v for k, v in vars(trainer).items() if isinstance(v, nn.Module)}}
    distinct = {id(module): (name, module) for name, module in reversed(list(found.items())) if module is not None}
    return {name: unwrapped(module) for name, module in reversed(list(distinct.values()))}


def prompted_module(trainer: Any) -> nn.Module:
    """Return the module to which the parameter names of the settings refer.

    This is ``trainer.model`` if it holds all trained parameters. For a trainer of several separate models it is a new
    module that holds them under the names they are registered with.
    """
    model = getattr(trainer, "model", None)
    trained = _trained(trainer)
    if isinstance(model, nn.Module):
        model = unwrapped(model)
        if trained <= {id(p) for p in model.parameters()}:
            return model
    holder = nn.Module()
    for name, module in modules_of(trainer).items():
        if any(id(p) in trained for p in module.parameters()):
            trained -= {id(p) for p in module.parameters()}
            holder.add_module(name.replace(".", "_"), module)
    return holder


def prompt_names(trainer: Any, module: nn.Module) -> list[str]:
    """Return the names of the parameters of `module` that meet the conditions.

    Raises:
        UserError: there is none; the message lists the trained parameters.
    """
    trained = _trained(trainer)
    candidates = {n: tuple(p.shape) for n, p in module.named_parameters() if p.requires_grad and id(p) in trained}
    name = type(trainer).__name__
    if not candidates:
        raise UserError(f"{name} trains no parameter, so there is nothing to quantize: run it without the Q.")
    chosen = [n for n, shape in candidates.items() if len(shape) > 1 and any(w in n.lower() for w in WORDS)]
    if not chosen:
        listed = ", ".join(f"{n} {shape}" for n, shape in candidates.items())
        raise UserError(
            f"{name}: no trained parameter looks like a prompt (two or more dimensions, and one of {', '.join(WORDS)} "
            f"in its name). Name what to quantize: TRAINER.QUANT.INCLUDE \"('{next(iter(candidates))}',)\". "
            f"These are trained: {listed}"
        )
    return chosen


def _trained(trainer: Any) -> set[int]:
    """Return the ids of the parameters that require a gradient and that an optimizer of the trainer holds."""
    optimizers = [o for o in (*trainer._optims.values(), *vars(trainer).values()) if isinstance(o, Optimizer)]
    held = {id(p): p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    return {key for key, p in held.items() if p.requires_grad}


def check_reach(trainer: Any, module: nn.Module, names: Iterable[str]) -> None:
    """Check that nothing in the trainer would still use a tensor's full-precision values after it is quantized.

    Raises:
        UserError: a second module refers to one of the parameters `names`, or the trainer holds values by their names.
    """
    owners = {id(module.get_parameter(n)): (_owner(module, n), n) for n in names}

    def values(thing: Any) -> Iterator[Any]:
        yield thing
        if isinstance(thing, (list, tuple)) or (isinstance(thing, Mapping) and not isinstance(thing, nn.Module)):
            yield from thing.values() if isinstance(thing, Mapping) else thing

    for model_name, model in modules_of(trainer).items():
        for prefix, part in model.named_modules():
            # A module's own parameters are in _parameters; anything else among its attributes is a second reference.
            for attribute, thing in [*part._parameters.items(), *vars(part).items()]:
                if attribute == "_parameters":
                    continue
                for value in values(thing):
                    owner = owners.get(id(value))
                    if owner is not None and owner[0] != (id(part), attribute):
                        where = ".".join(filter(None, (model_name, prefix, attribute)))
                        raise UserError(
                            f"{owner[1]} is also {where}: quantizing it would leave the other in full precision. "
                            f"Exclude it: TRAINER.QUANT.EXCLUDE \"('{owner[1]}',)\""
                        )
    plain = {local for _, local in _local_names(trainer, owners)}
    for attribute, thing in vars(trainer).items():
        held = isinstance(thing, Mapping) and [k for k in thing if k in plain and isinstance(thing[k], Tensor)]
        if held:
            raise UserError(
                f"{type(trainer).__name__}.{attribute}, made in build_model, holds values under the name {held[0]}, "
                "which quantizing changes. Make it later (in before_train), or average a copy of the model."
            )


def _owner(module: nn.Module, name: str) -> tuple[int, str]:
    prefix, _, leaf = name.rpartition(".")
    return id(module.get_submodule(prefix)), leaf


def _local_names(trainer: Any, ids: Iterable[int]) -> list[tuple[nn.Module, str]]:
    """Return (module, name in it) of the parameters with these ids, for every module of the trainer."""
    wanted = set(ids)
    return [(m, n) for m in modules_of(trainer).values() for n, p in m.named_parameters() if id(p) in wanted]


@torch.no_grad()
def equal_copies(trainer: Any, module: nn.Module, names: Iterable[str]) -> list[tuple[nn.Module, list[str]]]:
    """Find modules of the trainer that start as copies of the prompted one, such as moving averages.

    A copy has the same class, and equal values under the same names. The trainer may test the copy, so it is quantized
    like the original.

    Returns:
        Pairs of a copy and the names of the parameters `names` in it.
    """
    originals = {id(module.get_parameter(n)) for n in names}
    found: dict[int, tuple[nn.Module, list[str]]] = {}
    for source in {id(m): m for m, _ in _local_names(trainer, originals)}.values():
        local = {n: p for n, p in source.named_parameters() if id(p) in originals}
        for other in modules_of(trainer).values():
            theirs = dict(other.named_parameters())
            if type(other) is not type(source) or any(id(p) in originals for p in theirs.values()):
                continue
            if all(n in theirs and theirs[n].shape == p.shape and torch.equal(theirs[n], p) for n, p in local.items()):
                found[id(other)] = (other, list(local))
    return list(found.values())


def quantized_copies(trainer: Any, module: nn.Module) -> list[nn.Module]:
    """Return the other modules of the trainer that have quantized tensors: copies made before or after quantization."""
    known = {id(weight) for _, weight in quantized_parameters(module).values()}
    found = []
    for other in modules_of(trainer).values():
        theirs = {id(weight) for _, weight in quantized_parameters(other).values()}
        if theirs - known:
            found.append(other)
            known |= theirs
    return found
