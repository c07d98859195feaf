"""Choose the tensors to quantize in a third-party trainer, which does not name them.

A parameter is quantized if all three conditions hold:

1. It is trained: it requires a gradient, and an optimizer of the trainer holds it.
2. It belongs to a prompt. Either its own name says so (``ctx``, ``VPT_shallow``, ``compound_rep_tokens``,
   ``prompt_proj.weight``), or a module around it is a learner (``prompt_learner.proj.weight``). Adapters and
   convolutions are not prompts, wherever they are.
3. It holds vectors: at least two of its dimensions are larger than one, and one is a width of the frozen model (or at
   least `WIDE`). Biases, norms, scalars, and small matrices such as permutation logits are not vectors.

``TRAINER.QUANT.INCLUDE`` replaces these conditions by patterns of names, ``TRAINER.QUANT.EXCLUDE`` excludes names.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from qprompt.errors import UserError
from qprompt.quantization.api import quantized_parameters

WIDE = 64
_PROMPT = re.compile(r"^(ctx|prompts?|vpt)|ctx\d*$")
_VECTORS = re.compile(r"^(contexts?|tokens?)\d*$")  # of a parameter's own name, not of a layer's
_LEARNER = re.compile(r"learner\d*$")
_WITHOUT_MODELS = ("torch.", "dassl.", "yacs.", "qprompt.")
_ADAPTER = re.compile(r"adapt[eo]r")


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside wrappers such as DataParallel and AveragedModel, which hold it as ``.module``."""
    inner = getattr(module, "module", None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


def modules_of(trainer: Any) -> dict[str, nn.Module]:
    """Return the registered models and the modules that attributes of the trainer are or hold, each module once."""
    found = {**trainer._models, **{k: v for k, v in vars(trainer).items() if isinstance(v, nn.Module)}}
    for name, thing in vars(trainer).items():
        if thing is not trainer._models and isinstance(thing, (list, tuple, dict)):  # several models
            parts = thing.items() if isinstance(thing, dict) else enumerate(thing)
            found |= {f"{name}.{k}": v for k, v in parts if isinstance(v, nn.Module)}
    for name, thing in vars(trainer).items():  # an object that holds a model, such as a moving average
        if name not in found and hasattr(thing, "__dict__") and not type(thing).__module__.startswith(_WITHOUT_MODELS):
            found |= {f"{name}.{k}": v for k, v in vars(thing).items() if isinstance(v, nn.Module)}
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
    candidates = {n: p for n, p in trained_parameters(trainer, module).items() if "parametrizations." not in n}
    name = type(trainer).__name__
    if not candidates:
        raise UserError(_no_optimizer(name, module))
    widths = {len(p) for p in module.parameters() if not p.requires_grad and p.dim() == 1}
    chosen = [
        n for n, p in candidates.items() if belongs_to_a_prompt(module, n) and _holds_vectors(tuple(p.shape), widths)
    ]
    if not chosen:
        listed = ", ".join(f"{n} {tuple(p.shape)}" for n, p in candidates.items())
        example = next((n for n, p in candidates.items() if is_matrix(p)), next(iter(candidates)))
        raise UserError(
            f"{name}: no trained parameter looks like a prompt (vectors whose name, or whose learner's name, says so). "
            f"Name what to quantize: TRAINER.QUANT.INCLUDE \"('{example}',)\". These are trained: {listed}"
        )
    return chosen


def _no_optimizer(name: str, module: nn.Module) -> str:
    likely = [
        n for n, p in module.named_parameters() if p.requires_grad and is_matrix(p) and belongs_to_a_prompt(module, n)
    ]
    text = f"{name} trains no parameter, so there is nothing to quantize: run it without the Q."
    if not likely:
        return text
    listed = "".join(f"'{n}', " for n in likely).strip()
    return (
        f"{name} trains no parameter: after build_model, no optimizer of it holds one. If it makes one when it trains, "
        f'name what to quantize: TRAINER.QUANT.INCLUDE "({listed})". Otherwise run it without the Q.'
    )


def trained_parameters(trainer: Any, module: nn.Module) -> dict[str, nn.Parameter]:
    """Return name -> parameter of `module`, of those that an optimizer of the trainer trains."""
    trained = _trained(trainer)
    return {n: p for n, p in module.named_parameters() if p.requires_grad and id(p) in trained}


def belongs_to_a_prompt(module: nn.Module, name: str) -> bool:
    """Return whether a parameter's own name, or the name of a learner around it, says that it belongs to a prompt."""
    owner = module.get_submodule(name.rpartition(".")[0])
    *around, leaf = [part for part in name.split(".") if not part.isdigit()]
    layer = leaf in ("weight", "bias") and bool(around)
    if layer:
        leaf = around.pop()  # goes by its own name
    if isinstance(owner, nn.modules.conv._ConvNd) or any(_ADAPTER.search(p.lower()) for p in (*around, leaf)):
        return False
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", leaf).lower().split("_")
    if any(map(_PROMPT.search, words)) or (not layer and any(map(_VECTORS.search, words))):
        return True
    return any(_LEARNER.search(part.lower()) for part in around)


def is_matrix(tensor: Tensor) -> bool:
    """Return whether at least two dimensions are larger than one."""
    return sum(size > 1 for size in tensor.shape) >= 2


def _holds_vectors(shape: tuple[int, ...], widths: set[int]) -> bool:
    larger = [size for size in shape if size > 1]
    return len(larger) >= 2 and (not widths or any(size in widths or size >= WIDE for size in larger))


def left_out(trainer: Any, module: nn.Module, names: Iterable[str]) -> str:
    """Return lines on what is trained and not among `names`, with its share of the bytes, and what to type; or ""."""
    trained, names = trained_parameters(trainer, module), list(names)
    total = sum(p.numel() for p in trained.values())
    others = {n: p for n, p in trained.items() if n not in names}
    if not others:
        return ""
    lines = [
        f"  {n} {' x '.join(map(str, p.shape)) or 'scalar'}: {100 * p.numel() / total:.1f}%" for n, p in others.items()
    ]
    shown = lines if len(lines) <= 20 else [*lines[:19], f"  and {len(lines) - 19} more"]
    share = 100 * sum(p.numel() for p in others.values()) / total
    text = [f"trained, but not quantized ({share:.1f}% of the trained numbers):", *shown]
    matrices = [n for n, p in others.items() if is_matrix(p) and "parametrizations." not in n]
    if matrices:
        listed = ", ".join(f"'{n}'" for n in [*names, *matrices])
        text.append(f'to quantize them too: TRAINER.QUANT.INCLUDE "({listed})"')
    return "\n".join(text)


def _trained(trainer: Any) -> set[int]:
    """Return the ids of the parameters that require a gradient and that an optimizer of the trainer holds."""
    return {key for optimizer in optimizers_of(trainer) for key, p in _held(optimizer).items() if p.requires_grad}


def optimizers_of(trainer: Any) -> list[Optimizer]:
    """Return the registered optimizers and those among the attributes of the trainer, each once."""
    found = [
        o for thing in (trainer._optims, *vars(trainer).values()) for o in _flat(thing) if isinstance(o, Optimizer)
    ]
    return list({id(optimizer): optimizer for optimizer in found}.values())


def _held(optimizer: Optimizer) -> dict[int, Any]:
    return {id(p): p for group in optimizer.param_groups for p in group["params"]}


def _flat(thing: Any) -> Iterator[Any]:
    yield thing
    if isinstance(thing, (list, tuple)) or (isinstance(thing, Mapping) and not isinstance(thing, nn.Module)):
        yield from thing.values() if isinstance(thing, Mapping) else thing


def references(trainer: Any, module: nn.Module, names: Iterable[str]) -> str:
    """Return where else modules and attributes of the trainer refer to the parameters `names`; "" if nowhere."""
    wanted = {id(module.get_parameter(n)) for n in names}
    found = []
    for model_name, model in modules_of(trainer).items():
        for prefix, part in model.named_modules():
            for attribute, thing in vars(part).items():
                if attribute != "_parameters" and any(_refers(value, wanted) for value in _flat(thing)):
                    found.append(".".join(filter(None, (model_name, prefix, attribute))))
    for attribute, thing in vars(trainer).items():
        if any(_refers(value, wanted) for value in _flat(thing)):
            found.append(f"{type(trainer).__name__}.{attribute}")
    return ", ".join(found)


def _refers(value: Any, wanted: set[int]) -> bool:
    """Return whether a value is one of the parameters, or a view of one."""
    return id(value) in wanted or (isinstance(value, Tensor) and id(value._base) in wanted)


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
