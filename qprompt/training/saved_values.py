"""What a third-party script saves by itself holds the quantized values of prompts, or a line says that it does not.

Inside a training step, state dicts hold full-precision values, so that averages of them are meaningful, and a parameter
itself is always in full precision. A script that passes either to ``torch.save`` would store a prompt that is not the
one that the model uses.
"""

import functools
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qprompt.quantization.forward_pass import InForward, all_in_forward

log = logging.getLogger(__name__)
_modules: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
_said: set[str] = set()


def save_quantized_values_of(module: nn.Module) -> None:
    """Make ``torch.save`` and ``safetensors.torch.save_file`` replace the full-precision values of its prompts."""
    _modules.add(module)
    watch_saving()


def watch_saving() -> None:
    """Do so for modules to come: before a script imports the functions by name."""
    import safetensors.torch

    for place, name in ((torch, "save"), (safetensors.torch, "save_file")):
        function = getattr(place, name)
        if not hasattr(function, "of_qprompt"):
            setattr(place, name, _replacing(function))


def _replacing(save: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(save)
    def wrapper(obj: Any, f: Any, *args: Any, **options: Any) -> Any:
        found = _Found(f)
        result = save(found.replaced(obj), f, *args, **options)
        found.say()
        return result

    wrapper.of_qprompt = True  # type: ignore[attr-defined]
    return wrapper


class _Prompt(NamedTuple):
    name: str
    leaf: str
    entry: InForward
    weight: Tensor
    quantized: Tensor


@torch.no_grad()
def _prompts() -> Iterator[_Prompt]:
    """Yield the quantized tensors of the modules that live, where quantization has begun."""
    for module in list(_modules):
        for name, entry, owner, leaf in all_in_forward(module):
            weight = owner._parameters[leaf]
            if weight is not None and entry.fake.active:
                weight = getattr(weight, "quantized_from", weight)  # during a forward pass
                yield _Prompt(name, leaf, entry, weight.detach(), entry.fake(weight).detach())


class _Found:
    """What a file would hold of the prompts."""

    def __init__(self, file: Any) -> None:
        self.file = file if isinstance(file, str) or hasattr(file, "__fspath__") else "a file"
        self.prompts = list(_prompts())
        self.replaced_names: list[str] = []
        self.other_names: list[str] = []

    def replaced(self, thing: Any) -> Any:
        """Return `thing` with quantized values; containers in which nothing changes are returned as they are."""
        if not self.prompts:
            return thing
        if isinstance(thing, Tensor):
            prompt = self.in_full_precision(thing)
            return thing if prompt is None else self.quantized(prompt, thing)
        if isinstance(thing, Mapping) and type(thing).__module__ in ("builtins", "collections"):
            return self.replaced_in(thing)
        if type(thing) in (list, tuple):
            parts = [self.replaced(part) for part in thing]
            return thing if all(map(_is, parts, thing)) else type(thing)(parts)
        return thing

    def replaced_in(self, mapping: Mapping[Any, Any]) -> Any:
        changed: dict[Any, Any] = {}
        for key, value in mapping.items():
            own = key if isinstance(key, str) else ""
            if "parametrizations." in own:  # what belongs to a quantized state dict
                continue
            if not isinstance(value, Tensor):
                changed[key] = self.replaced(value)
                continue
            prompt = self.in_full_precision(value)
            if prompt is not None:
                changed[key] = self.quantized(prompt, value)
                if not isinstance(value, nn.Parameter):  # in a state dict; a script may go through its own dict by keys
                    changed |= _training_state(prompt, own, value)
            elif f"{_stem(own)}.original" not in mapping:
                self.other_names += self.other_values(own, value)
        if all(key in mapping and mapping[key] is value for key, value in changed.items()):
            return mapping
        return type(mapping)({**mapping, **changed})  # type: ignore[call-arg]

    def in_full_precision(self, tensor: Tensor) -> _Prompt | None:
        """Return the prompt whose full-precision values these are."""
        for prompt in self.prompts:
            if tensor.shape == prompt.weight.shape and tensor.is_floating_point():
                if tensor.data_ptr() != prompt.weight.data_ptr() and not prompt.entry.uses.count:
                    continue  # at first, other models have equal values
                values = tensor.detach().to(prompt.weight.device)
                same = torch.equal(values, prompt.weight.to(tensor.dtype))
                if same and not torch.equal(values, prompt.quantized.to(tensor.dtype)):
                    return prompt
        return None

    def other_values(self, key: str, tensor: Tensor) -> list[str]:
        """Return [key] if it names a prompt, with values that are not those of the prompt."""
        for prompt in self.prompts:
            named = key == prompt.name or f".{prompt.name}".endswith(f".{key}")
            if named and tensor.shape == prompt.weight.shape:
                values = tensor.detach().to(prompt.weight.device)
                return [] if torch.equal(values, prompt.quantized.to(tensor.dtype)) else [key]
        return []

    def quantized(self, prompt: _Prompt, tensor: Tensor) -> Tensor:
        self.replaced_names.append(prompt.name)
        values = prompt.quantized.to(tensor).clone()
        return nn.Parameter(values, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values

    def say(self) -> None:
        """Say once for each set of tensors what was done."""
        _once(
            self.replaced_names,
            f"{self.file} holds the quantized values of {{}}, which the model uses, not those that are trained",
        )
        _once(self.other_names, f"{self.file} holds other values of {{}} than the model uses: in full precision")


def _once(names: Iterable[str], text: str) -> None:
    listed = ", ".join(dict.fromkeys(names))
    if listed and listed + text[-10:] not in _said:
        _said.add(listed + text[-10:])
        log.info(text.format(listed))


def _is(a: Any, b: Any) -> bool:
    return a is b


def _stem(key: str) -> str:
    prefix, _, leaf = key.rpartition(".")
    return f"{prefix}.parametrizations.{leaf}" if prefix else f"parametrizations.{leaf}"


def _training_state(prompt: _Prompt, key: str, value: Tensor) -> dict[str, Tensor]:
    """Return what a quantized state dict holds besides the values, so that training goes on where it was saved."""
    if key.rpartition(".")[2] != prompt.leaf:
        return {}
    state = {k: v for k, v in prompt.entry.fake.state_dict(prefix=f"{_stem(key)}.0.").items() if isinstance(v, Tensor)}
    return {f"{_stem(key)}.original": value.detach(), **state}
