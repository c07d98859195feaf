"""Quantize parameters during the forward pass only, so that a third-party trainer finds them as it made them.

`quantize_` puts a parametrization in the place of a parameter: ``module.ctx`` is then a computed tensor, and the
parameter has another name. Code of others depends on both: it goes by names, writes to ``.data``, differentiates with
respect to ``module.ctx``. `quantize_forward_` leaves the parameter where it is. Hooks put W_q into its place while a
module that contains it runs forward, and put the parameter back afterwards; the gradient passes straight through to
the parameter. The hooks quantize whatever lies in the place: also the weights that `torch.func.functional_call` or a
meta-learner's clone of the module puts there.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qprompt.errors import UserError
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.fake_quantize import FakeQuantize
from qprompt.quantization.parameters import check_quantizable, match_parameters, owner_of, parametrizations
from qprompt.quantization.straight_through import straight_through

ATTRIBUTE = "_quantized_in_forward"  # of a module that owns such parameters: {name of the parameter: InForward}
CHECKS = 3  # forward passes of a module in which values are compared


class Uses:
    """A count that copies of a module share with it: training steps run copies, too."""

    count = 0

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Uses":
        return self


@dataclasses.dataclass
class InForward:
    """What quantizes one parameter in the forward pass.

    Attributes:
        fake: computes W_q.
        held: values to use in place of W_q, whatever the parameter holds; for probes.
        uses: the forward passes with gradients that used it, here or in copies of the module.
    """

    fake: FakeQuantize
    held: Tensor | None = None
    uses: Uses = dataclasses.field(default_factory=Uses)

    def values(self, weight: Tensor) -> Tensor:
        """Return what the forward pass uses for `weight`."""
        if self.held is not None:
            constant = self.held.requires_grad or not torch.is_grad_enabled()
            return self.held if constant else straight_through(weight, self.held)
        if self.fake.codebook.device != weight.device:
            self.fake.to(weight.device)
        return self.fake(weight)


class _Exchanged(NamedTuple):
    owner: nn.Module
    leaf: str
    weight: Tensor
    value: Tensor
    version: int
    copy: Tensor | None


class _Hooks:
    """The two hooks of one module: they exchange the parameters at `places` (path of the owner, name) below it."""

    def __init__(self, places: list[tuple[str, str]]) -> None:
        self.places = places
        self.running: list[list[_Exchanged]] = []
        self.checks_left = CHECKS

    def before(self, module: nn.Module, _args: Any) -> None:
        # By the module that is called: a meta-learner's clone shares the hooks of the original.
        exchanged = []
        for path, leaf in self.places:
            owner = module.get_submodule(path)
            entry = in_forward(owner).get(leaf)
            weight = owner._parameters.get(leaf)
            if entry is None or weight is None or hasattr(weight, "quantized_from"):  # a module around it did it
                continue
            value = entry.values(weight)
            if value is weight:  # not quantized yet
                continue
            entry.uses.count += torch.is_grad_enabled()
            value.quantized_from = weight  # type: ignore[attr-defined]
            owner._parameters[leaf] = value  # type: ignore[assignment]
            # A write through .data is not counted in the version: compare the values too, at first.
            exchanged.append(_Exchanged(owner, leaf, weight, value, _version(value), self._copy(value)))
        self.running.append(exchanged)
        self.checks_left -= 1

    def _copy(self, value: Tensor) -> Tensor | None:
        return value.detach().clone() if self.checks_left > 0 else None

    def after(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        for owner, leaf, weight, value, version, copy in self.running.pop() if self.running else ():
            if owner._parameters.get(leaf) is not value:  # the forward pass itself assigned a new parameter
                continue
            owner._parameters[leaf] = weight  # type: ignore[assignment]
            if _version(value) != version or (copy is not None and not torch.equal(value.detach(), copy)):
                raise UserError(
                    f"the forward pass of {type(owner).__name__} writes to {leaf}, which is quantized: the change "
                    f"would be lost. Exclude it: TRAINER.QUANT.EXCLUDE \"('*{leaf}',)\""
                )

    def __getstate__(self) -> dict[str, Any]:
        return {"places": self.places, "running": [], "checks_left": CHECKS}


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version  # of which torch counts no changes


def in_forward(owner: nn.Module) -> dict[str, InForward]:
    """Return name -> `InForward` of the parameters that `owner` itself holds."""
    return vars(owner).get(ATTRIBUTE, {})


def is_in_forward(module: nn.Module, name: str) -> bool:
    """Return whether the parameter with this name exists and is quantized in the forward pass."""
    try:
        owner, leaf = owner_of(module, name)
    except AttributeError:
        return False
    return leaf in in_forward(owner) and owner._parameters.get(leaf) is not None


def all_in_forward(module: nn.Module) -> Iterator[tuple[str, InForward, nn.Module, str]]:
    """Yield (name, entry, owner, name there) of each parameter of `module` that is quantized in the forward pass."""
    seen: set[int] = set()
    for path, owner in module.named_modules():
        for leaf, entry in in_forward(owner).items():
            if id(entry) not in seen and owner._parameters.get(leaf) is not None:  # once, if it has several names
                seen.add(id(entry))
                yield (f"{path}.{leaf}" if path else leaf), entry, owner, leaf


def quantized_in(module: nn.Module) -> dict[str, tuple[FakeQuantize, nn.Parameter]]:
    """Return, in order, name -> (its `FakeQuantize`, its full-precision parameter) of every quantized tensor."""
    found = parametrizations(module, FakeQuantize)
    for name, entry, owner, leaf in all_in_forward(module):
        weight: Any = owner._parameters[leaf]
        found[name] = entry.fake, weight
    return found


def release(module: nn.Module, entry: InForward) -> None:
    """End the quantization of a parameter, under all of its names; the hooks that remain find nothing to do."""
    for place in module.modules():
        own = vars(place).get(ATTRIBUTE, {})
        for leaf in [leaf for leaf, other in own.items() if other is entry]:
            del own[leaf]


@torch.no_grad()
def quantize_forward_(
    module: nn.Module,
    config: QuantConfig,
    names: Iterable[str],
    around: Mapping[str, nn.Module] | None = None,
) -> list[str]:
    """Quantize parameters of `module` in place, during forward passes only.

    A parameter with several names is quantized under all of them.

    Args:
        module: any module.
        config: the settings.
        names: parameter names or glob patterns.
        around: further modules by name, which share parameters or submodules with `module`.

    Returns:
        The names of the parameters.

    Raises:
        UserError: as `quantize_`.
    """
    owned = [(name, *owner_of(module, name)) for name in match_parameters(module, names)]
    owned = [(name, owner, leaf) for name, owner, leaf in owned if leaf not in in_forward(owner)]
    entries = {}
    for name, owner, leaf in owned:
        if isinstance(owner, torch.jit.ScriptModule):
            raise UserError(
                f"{name} is a parameter of a module that torch.jit.script compiled, where nothing can take its place: "
                "leave its module as it is in Python, or exclude it with TRAINER.QUANT.EXCLUDE \"('" + name + "',)\""
            )
        weight = owner._parameters[leaf]
        assert weight is not None
        check_quantizable(name, weight)
        entries[id(weight)] = InForward(FakeQuantize(weight, config)), weight
    for entry, weight in entries.values():
        if entry.fake.due:
            entry.fake.fit(weight)
    hooked: dict[int, tuple[nn.Module, list[tuple[str, str]]]] = {}
    for root in {id(m): m for m in (module, *(around or {}).values())}.values():
        for path, owner in root.named_modules(remove_duplicate=False):
            for leaf, weight in list(owner._parameters.items()):
                if id(weight) not in entries:
                    continue
                vars(owner).setdefault(ATTRIBUTE, {})[leaf] = entries[id(weight)][0]
                parts = path.split(".") if path else []
                for depth in range(len(parts) + 1):
                    outer = root.get_submodule(".".join(parts[:depth]))
                    _, places = hooked.setdefault(id(outer), (outer, []))
                    place = (".".join(parts[depth:]), leaf)
                    if place not in places:
                        places.append(place)
    for outer, places in hooked.values():
        hooks = _Hooks(places)
        try:
            outer.register_forward_pre_hook(hooks.before, prepend=True)  # its own hooks read parameters
            outer.register_forward_hook(hooks.after, always_call=True)
        except TypeError:  # torch 1.13: after an error the run ends
            outer.register_forward_pre_hook(hooks.before)
            outer.register_forward_hook(hooks.after)
    return [name for name, _, _ in owned]
