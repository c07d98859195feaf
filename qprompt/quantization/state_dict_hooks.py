"""Hooks for code that knows nothing of quantization and calls ``state_dict`` and ``load_state_dict``.

Such code often loads with ``strict=False``: without the hooks a prompt under another name would not be loaded, in
silence.
"""

import contextlib
import copy
from collections.abc import Iterable, Iterator
from functools import partial

from torch import nn

from qprompt.errors import UserError
from qprompt.quantization.fake_quantize import FakeQuantize
from qprompt.quantization.forward_pass import in_forward, quantized_in

# What FakeQuantize holds besides its parameters.
STATE = ("codebook", "reference", "_extra_state")


def add_plain_state_dict_hooks_(module: nn.Module) -> None:
    """Make ``module.load_state_dict`` accept plain and quantized state dicts, and ``module.state_dict()`` write both.

    A missing prompt raises with ``strict=False`` too, and a tool that knows only ``ctx`` finds it, with the values that
    the forward pass uses.
    """
    names = [*quantized_in(module)]
    # A parameter that is quantized in the forward pass may have several names.
    names += [f"{path}.{leaf}".lstrip(".") for path, owner in module.named_modules() for leaf in in_forward(owner)]
    _add_hooks(module, names, only_plain=False)


def add_peft_hooks_(module: nn.Module, names: Iterable[str]) -> None:
    """Do the same for adapters of the PEFT library, whose files hold plain names and nothing else.

    ``state_dict()`` writes the quantized values under plain names alone: PEFT selects entries by name, and a file with
    other names would be read without the tensor. A state dict without the tensor may be that of another adapter, and
    leaves it unchanged.

    Args:
        module: any module.
        names: of its quantized parameters.
    """
    if _is_of_peft(module):
        _add_hooks(module, names, only_plain=True)


def _is_of_peft(module: nn.Module) -> bool:
    bases = {base for part in module.modules() for base in type(part).__mro__}
    return any(base.__module__.partition(".")[0] == "peft" for base in bases)


def _add_hooks(module: nn.Module, names: Iterable[str], only_plain: bool) -> None:
    for owner in sorted({name.rpartition(".")[0] for name in names}):
        # The underscored names are the ones that every supported torch has.
        part = module.get_submodule(owner)
        part._register_state_dict_hook(partial(_write_plain, only_plain=only_plain))
        part._register_load_state_dict_pre_hook(partial(_read_plain, required=not only_plain), with_module=True)


_unquantized = False


@contextlib.contextmanager
def unquantized_view(enabled: bool = True) -> Iterator[None]:
    """Within the context, give modules with `add_plain_state_dict_hooks_` the state dict of their unquantized selves.

    That is, full-precision values under plain names, and nothing else: what code computes with them (such as an average
    over epochs) and loads back is then meaningful. Loading fits the codebook again and keeps the step count.

    Args:
        enabled: False ends the view within an outer context: a checkpoint that is saved there is a usual one.
    """
    global _unquantized
    outer, _unquantized = _unquantized, enabled
    try:
        yield
    finally:
        _unquantized = outer


def _write_plain(owner: nn.Module, state, prefix: str, _metadata, only_plain: bool) -> None:
    for name, (fake, weight) in _own_quantized(owner).items():
        entries = f"{prefix}parametrizations.{name}."
        if _unquantized or only_plain:
            for key in [key for key in state if key.startswith(entries)]:
                del state[key]
        elif name in in_forward(owner):  # whose state is not in the module
            state[f"{entries}original"] = state[prefix + name]
            state.update(fake.state_dict(prefix=f"{entries}0."))
        state[prefix + name] = weight.detach() if _unquantized else fake(weight).detach().clone()


def _read_plain(
    owner: nn.Module, state, prefix: str, _metadata, _strict, _missing, _unexpected, errors: list[str], required: bool
) -> None:
    for name, (fake, weight) in _own_quantized(owner).items():
        entries = f"{prefix}parametrizations.{name}."
        original = f"{entries}original"
        plain = state.pop(prefix + name, None)
        if original in state:
            missing = [key for key in (f"{entries}0.{entry}" for entry in STATE) if key not in state]
            if missing:
                errors.append(f"the state dict has {original} without {', '.join(missing)}")
                continue
        elif plain is None:
            if required:
                errors.append(f"the state dict has no {prefix}{name}, and no {original}")
            continue
        else:
            state[original] = plain
            fresh = copy.deepcopy(fake)
            if not _unquantized:
                fresh.reset()
            if fresh.fits or (fresh.config.mode == "qat" and fresh.config.start_step == 0):
                fresh.fit(plain.to(weight))
            state.update(fresh.state_dict(prefix=f"{entries}0."))
        if name in in_forward(owner):  # whose state is not in the module
            own = {key.removeprefix(entries): state.pop(key) for key in list(state) if key.startswith(entries)}
            state[prefix + name] = own.pop("original")
            try:
                fake.load_state_dict({key.removeprefix("0."): value for key, value in own.items()})
            except (RuntimeError, UserError) as error:
                errors.append(f"{prefix}{name}: {error}")


def _own_quantized(owner: nn.Module) -> dict[str, tuple[FakeQuantize, nn.Parameter]]:
    return {name: pair for name, pair in quantized_in(owner).items() if "." not in name}
