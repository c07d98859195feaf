"""What `QuantizedPrompts` does in trainers of others, whose parameters stay where and as they made them."""

import contextlib
import dataclasses
import functools
import importlib
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from qprompt.errors import UserError
from qprompt.prompts import Method, find_method
from qprompt.prompts.method import LEARNER
from qprompt.quantization.api import quantized_parameters
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.forward_pass import all_in_forward, is_in_forward, quantize_forward_, release
from qprompt.quantization.state_dict_hooks import add_plain_state_dict_hooks_
from qprompt.training import selection
from qprompt.training.other_state import OtherState
from qprompt.training.proof import Unused, prove_use
from qprompt.training.saved_values import save_quantized_values_of
from qprompt.training.step_watch import StepWatch

if TYPE_CHECKING:
    from dassl.engine import TrainerX as _Trainer
else:
    _Trainer = object  # whatever trainer follows in the bases; Dassl is not needed to import this module

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Run:
    """What became of the prompt of one trainer.

    Attributes:
        trainer: its name.
        trained: whether a step was made.
        stored: whether the prompt was stored after the last step.
        written: whether it was ever stored.
    """

    trainer: str
    trained: bool = False
    stored: bool = False
    written: bool = False


runs: list[Run] = []  # of third-party trainers in this process; the launcher reports on them at the end


class ThirdPartyPrompts(_Trainer):
    """The part of `QuantizedPrompts` that quantizes in forward passes, and proves that inference uses what is stored.

    Attributes:
        prompted: the module that holds the quantized tensors: ``self.model``, in most trainers.
        half: names of the other trained tensors, which are stored and used in half precision.
        copies: moving averages of it that the trainer maintains.
        run: whether the prompt was trained and stored.
        bits_are_given: whether TRAINER.QUANT.BITS was set; the launcher knows.
    """

    quantized: tuple[str, ...] = ()
    prompted: nn.Module
    half: list[str]
    copies: tuple[nn.Module, ...] = ()
    run: Run
    bits_are_given = True
    _watch: StepWatch | None = None
    _in_step = False
    _proven = False
    _as_initialized: dict[str, tuple[float, float]] | None = None
    _built: dict[str, tuple[float, float]] | None = None  # sums of the tensors, as the trainer was built
    _chosen: tuple[QuantConfig, list[str]]
    _known: set[str]  # names of the parameters, as the trainer was built
    _exchanged: list[tuple[Any, Any, torch.Tensor, torch.Tensor]]  # quantizer, parameter, its values, those in place
    _is_model = False  # whether `prompted` is the trainer's model
    _other_state: OtherState | None = None
    _source = 0  # position in `modules_in_use` of the module whose prompts inference uses

    @property
    def _in_forward(self) -> bool:
        """Whether this is somebody else's trainer, whose parameters stay as it made them (`quantize_forward_`)."""
        return not isinstance(getattr(self, "method", None), Method)

    def _prove(self) -> None:
        try:
            self._source, self._proven = prove_use(self, modules_in_use), True
        except Unused as error:
            if error.all or self.cfg.TRAINER.QUANT.INCLUDE or self.quantized or self.run.trained:
                raise
            log.info("left out, since inference does not use them: %s", ", ".join(error.names))
            for module in modules_in_use(self):
                for name, entry, _, _ in list(all_in_forward(module)):
                    if name in error.names:
                        for other in selection.modules_of(self).values():
                            release(other, entry)
            self._chosen = self._chosen[0], [n for n in self._chosen[1] if n not in error.names]
            self._prove()

    def _with_bits_of_its_kind(self, config: QuantConfig, names: list[str]) -> QuantConfig:
        """Start at the bits of the method whose tensors these are, as `qprompt pack` does, unless bits were given."""
        kind = None if self.bits_are_given else find_method([name.removeprefix(LEARNER) for name in names])
        if kind is None or kind.bits == config.bits:
            return config
        log.info("TRAINER.QUANT.BITS %d, as for %s: these are its tensors, and others", kind.bits, kind.trainer)
        self.cfg = self.cfg.clone()
        self.cfg.defrost()
        self.cfg.TRAINER.QUANT.BITS = kind.bits
        self.cfg.freeze()
        return dataclasses.replace(config, bits=kind.bits)

    def _quantize_in_forward(self, config: QuantConfig, names: list[str]) -> None:
        """Quantize the tensors of a third-party trainer, which finds its parameters where and as it made them."""
        self.half = []
        for module, local in [(self.prompted, names), *selection.equal_copies(self, self.prompted, names)]:
            quantize_forward_(module, config, local, selection.modules_of(self))
            add_plain_state_dict_hooks_(module)
            save_quantized_values_of(module)
        for fake, weight in quantized_parameters(self.prompted).values():
            if fake.step_size is not None:  # trains with its tensor
                for optimizer in selection.optimizers_of(self):
                    for group in optimizer.param_groups:
                        if any(p is weight for p in group["params"]):
                            group["params"].append(fake.step_size)
        self._chosen = config, names
        follow_optimizers(self)

    def _after_optimizer_step(self, optimizer: Any, *_: Any) -> None:
        """Count the steps of a loop of its own, which does not call `forward_backward`."""
        if self._in_step:
            return
        self._quantize_replaced()
        quantized = {id(weight) for _, weight in quantized_parameters(self.prompted).values()}
        if not any(id(p) in quantized for group in optimizer.param_groups for p in group["params"]):
            return
        if self._watch is not None:
            self._watch.end()
        self._refresh()
        if self._watch is not None:
            self._watch.begin()

    def _quantize_replaced(self) -> None:
        """Quantize again what the trainer has replaced by new modules since it was built."""
        config, names = self._chosen
        if self._is_model and isinstance(self.model, nn.Module):
            self.prompted = selection.unwrapped(self.model)
        lost = [name for name in names if not is_in_forward(self.prompted, name)]
        if not lost:
            return
        log.info("%s replaced %s after build_model: quantized again", type(self).__name__, ", ".join(lost))
        self._quantize_in_forward(config, names)
        self._proven, self._watch = False, StepWatch(self.prompted, type(self).__name__)

    def _fit_what_was_written(self) -> None:
        """Fit the levels of tensors that a script has loaded by writing to them, without a state dict."""
        if self.run.trained or self._built is None:
            return
        changed = [name for name, sums in self._sums().items() if self._built.get(name, sums) != sums]
        for name, (fake, weight) in quantized_parameters(self.prompted).items():
            if name in changed and fake.active and not fake.step:
                fake.fit(weight)

    @contextlib.contextmanager
    def _values_in_place(self) -> Iterator[None]:
        """Within the context, let parameters hold their quantized values, for tests that read them in any way."""
        if not self._exchanged:
            for module in modules_in_use(self):
                for _, entry, owner, leaf in all_in_forward(module):
                    weight: Any = owner._parameters[leaf]
                    with torch.no_grad():
                        value = entry.fake(weight).detach().clone()
                    if entry.fake.active:
                        self._exchanged.append((entry.fake, weight, weight.detach().clone(), value))
                        weight.data.copy_(value)
                        entry.fake.stored = value
        try:
            yield
        finally:
            self._put_back()

    def _put_back(self) -> None:
        """Let parameters hold their full-precision values, unless something else was loaded into them."""
        for fake, weight, original, value in self._exchanged:
            fake.stored = None
            if torch.equal(weight, value):
                weight.data.copy_(original)
        self._exchanged.clear()

    def _refresh(self) -> list[str]:
        """Count a step and fit the levels that are due; see `qprompt.refresh_`."""
        raise NotImplementedError

    def _sums(self) -> dict[str, tuple[float, float]]:
        weights = {name: weight.detach().double() for name, (_, weight) in quantized_parameters(self.prompted).items()}
        return {name: (float(weight.sum()), float(weight.abs().sum())) for name, weight in weights.items()}

    def _warn_if_as_initialized(self) -> None:
        """Say so, once, if a script tests prompts that it neither trained nor loaded: some load nothing to evaluate."""
        before, self._as_initialized = self._as_initialized, None
        if before is not None and not self.run.trained and not self.cfg.MODEL.INIT_WEIGHTS and before == self._sums():
            log.warning(
                "%s tests the prompts as they were initialized: the script neither trained them nor loaded a "
                "checkpoint (does it call load_model for --eval-only?)",
                type(self).__name__,
            )

    def _warn_of_other_state(self) -> None:
        """Say what training changed that the prompt file does not hold, e.g. a memory of features."""
        changed = self._other_state.changed(self) if self._other_state is not None else []
        late = [n for n, p in self.prompted.named_parameters() if p.requires_grad and n not in self._known]
        if late:
            log.warning("not quantized: %s, which the trainer made after build_model", ", ".join(late[:8]))
        if changed:
            log.warning(
                "beside its parameters, training changed %s: the prompt file does not hold them, keep the checkpoint",
                ", ".join(changed[:8]) + (f" and {len(changed) - 8} more" if len(changed) > 8 else ""),
            )

    def _check_again(self) -> None:
        """Say so if training changed which prompt inference uses, e.g. by a moving average that it started."""
        try:
            self._prove()
        except UserError as error:
            log.warning("The stored prompt may not be the one that is tested: %s", error)

    def _checkpoint_keys(self) -> dict[str, list[str] | None]:
        """Return tensor name -> [folder, key] of the checkpoints that X writes, for `qprompt unpack`.

        None stands for tensors that X trains, but does not write to its checkpoints.
        """
        places: dict[str, list[str] | None] = {}
        names = {id(p): name for name, p in self.prompted.named_parameters() if p.requires_grad}
        for folder, model in self._models.items():
            for key, parameter in model.named_parameters() if model is not None else ():
                if id(parameter) in names:
                    places.setdefault(names[id(parameter)], [folder, key])
        return {name: places.get(name) for name in names.values()}


def call_after_steps(optimizer: Optimizer, function: Callable[..., None]) -> None:
    """Call `function` after each step of an optimizer."""
    if hasattr(optimizer, "register_step_post_hook"):
        optimizer.register_step_post_hook(function)
        return
    step: Any = optimizer.step  # torch 1.13

    @functools.wraps(step)
    def stepped(*args: Any, **options: Any) -> Any:
        result = step(*args, **options)
        function(optimizer)
        return result

    optimizer.step = stepped  # type: ignore[method-assign]


_followed: "weakref.WeakSet[ThirdPartyPrompts]" = weakref.WeakSet()
_hooked = False


def follow_optimizers(trainer: ThirdPartyPrompts) -> None:
    """Tell a trainer of the steps of all optimizers: some trainers make theirs when they train."""
    global _hooked
    _followed.add(trainer)
    add = getattr(
        importlib.import_module("torch.optim.optimizer"), "register_optimizer_step_post_hook", None
    )  # not in torch 1.13
    if add is None:
        for optimizer in selection.optimizers_of(trainer):
            call_after_steps(optimizer, trainer._after_optimizer_step)
    elif not _hooked:
        add(_tell)
        _hooked = True


def _tell(optimizer: Any, *_: Any) -> None:
    for trainer in list(_followed):
        trainer._after_optimizer_step(optimizer)


def modules_in_use(trainer: Any) -> list[nn.Module]:
    """Return the module with the quantized prompts, and the moving averages of it."""
    return [trainer.prompted, *selection.quantized_copies(trainer, trainer.prompted)]
