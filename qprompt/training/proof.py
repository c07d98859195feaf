"""Prove that what will be stored is what the model uses, before a third-party trainer trains.

The trainer infers a few images with other values in place of those that the prompt file would hold, and with other
full-precision parameters. The logits must change with each stored tensor, and must not change with the parameters.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from qprompt.errors import UserError
from qprompt.prompt_files.packing import stored_tensor
from qprompt.quantization.forward_pass import InForward, all_in_forward
from qprompt.training.probe import copied, guarded, infer, largest_difference, probe_batch
from qprompt.training.selection import references

SCALES = (1.0, 30.0, 1000.0)  # of a change, in standard deviations of a tensor


class InferenceFails(UserError):
    """The trainer cannot make inferences, or not yet."""


class Unused(UserError):
    """Inference does not use some of the stored tensors.

    Attributes:
        names: of the tensors.
        all: whether it uses none.
    """

    names: list[str]
    all: bool


def prove_use(trainer: Any, modules_of: Callable[[Any], Sequence[nn.Module]]) -> int:
    """Check that inference uses the quantized values of one module of the trainer, and no full-precision ones.

    Args:
        trainer: complete.
        modules_of: the trainer, or a copy of it -> its prompted module, and the moving averages of that.

    Returns:
        The position in `modules_of(trainer)` of the module that is used.

    Raises:
        InferenceFails: nothing can be proven.
        Unused: the stored values of tensors are not used.
        UserError: parameters are used in full precision. It names them.
    """
    try:
        return _Proof(trainer, modules_of, copied).position()
    except InferenceFails:
        raise
    except UserError:  # a closure may refer to the original, which a copy of the trainer then uses
        return _Proof(trainer, modules_of, guarded).position()


class _Proof:
    """The proof on copies of a trainer, or on the trainer itself while it is guarded."""

    def __init__(
        self,
        trainer: Any,
        modules_of: Callable[[Any], Sequence[nn.Module]],
        subject: Callable[[Any], AbstractContextManager[Any]],
    ) -> None:
        self.trainer, self.modules_of, self.subject = trainer, modules_of, subject
        self.name, self.images = type(trainer).__name__, probe_batch(trainer)
        self.held = [
            {name: _stored(entry, owner, leaf) for name, entry, owner, leaf in all_in_forward(module)}
            for module in modules_of(trainer)
        ]
        try:
            self.before, again = self.logits(), self.logits()
        except UserError:
            raise
        except Exception as error:  # of third-party code
            first = str(error).partition("\n")[0]
            raise InferenceFails(
                f"{self.name}: nothing proves that the model uses what would be stored, since its inference on the "
                f"first test images fails: {type(error).__name__}: {first}. It is called as model_inference(images)"
                + (", without DataParallel: type CUDA_VISIBLE_DEVICES=0 first" if "'module'" in first else "")
            ) from error
        if not self.before:
            raise InferenceFails(f"{self.name}: its model_inference returns no tensor, so nothing proves what it uses.")
        self.noise = largest_difference(self.before, again)

    def position(self) -> int:
        modules = self.modules_of(self.trainer)
        names = list(self.held[0])
        if self.shows_parameters(names):
            used = [name for name in names if self.shows_parameters([name])] or names
            places = references(self.trainer, modules[0], used)
            raise UserError(
                f"{self.name} computes with the full-precision values of {', '.join(used)}"
                f"{f' ({places})' if places else ''}: what would be stored is not what it uses. "
                f"{_advice(used)}"
            )
        unused = names
        for at in range(len(modules)):
            unused = self.unused(at)
            if not unused:
                return at
            if len(unused) < len(self.held[at]):
                break
        places = references(self.trainer, modules[0], unused)
        error = Unused(
            f"{self.name}: a change of the stored values of {', '.join(unused)} does not change the logits"
            f"{f', since they are also read as {places}' if places else ''}: the model would not use what is stored. "
            f"{_advice(unused)}"
        )
        error.names, error.all = unused, len(unused) == len(names)
        raise error

    def logits(
        self, at: int = 0, changes: dict[str, float] | None = None, parameters: Sequence[str] = ()
    ) -> list[Tensor]:
        """Return the logits with the stored values.

        Args:
            at: position of the module with `changes`.
            changes: tensor -> scale of a change of its stored values.
            parameters: names of those whose full-precision values to change.
        """
        originals: list[Any] = [
            owner._parameters[leaf] for _, _, owner, leaf in all_in_forward(self.modules_of(self.trainer)[0])
        ]
        saved: list[tuple[Any, Tensor]] = []
        with self.subject(self.trainer) as subject:
            try:
                changed = [w for n, w in zip(self.held[0], originals, strict=True) if n in parameters]
                for i, module in enumerate(self.modules_of(subject)):
                    for name, entry, owner, leaf in all_in_forward(module):
                        entry.held = self.held[i][name]
                        if i == at and changes and name in changes:
                            entry.held = _changed(entry.held, changes[name])
                        if name in parameters:
                            changed.append(owner._parameters[leaf])
                # The originals too: a closure holds them, also in a copy of the model.
                # In place: a view of the parameter is another way to read it.
                saved = [(weight, weight.data.clone()) for weight in {id(w): w for w in changed}.values()]
                for weight, _ in saved:
                    weight.data.copy_(_changed(weight.data, 30.0))
                return [tensor.detach() for tensor in infer(subject, self.images)]
            finally:
                _release(self.modules_of(subject))
                for weight, value in saved:
                    weight.data.copy_(value)

    def differs(self, *change: Any) -> bool:
        return largest_difference(self.before, self.logits(*change)) > self.noise

    def shows_parameters(self, names: Sequence[str]) -> bool:
        """Return whether the full-precision values of parameters reach the logits."""
        return self.differs(0, None, names)

    def unused(self, at: int) -> list[str]:
        """Return the names of the tensors of a module whose stored values do not reach the logits."""
        names = list(self.held[at])
        used = self.with_gradient(at)
        # A gradient shows which tensors matter; a change of all shows that what matters is what is stored.
        if used and not any(self.differs(at, dict.fromkeys(names, scale)) for scale in SCALES):
            used = set()
        return [n for n in names if n not in used and not any(self.differs(at, {n: scale}) for scale in SCALES)]

    def with_gradient(self, at: int) -> set[str]:
        """Return the names of the tensors with a gradient; none if inference does not compute gradients."""
        with self.subject(self.trainer) as subject:
            modules = self.modules_of(subject)
            try:
                for i, module in enumerate(modules):
                    for name, entry, _, _ in all_in_forward(module):
                        entry.held = self.held[i][name].clone().requires_grad_(i == at)
                held = {name: entry.held for name, entry, _, _ in all_in_forward(modules[at])}
                outputs = infer(subject, self.images, gradients=True)
                total = torch.stack([output.float().square().sum() for output in outputs]).sum()
                found = torch.autograd.grad(total, list(held.values()), allow_unused=True)  # type: ignore[arg-type]
            except RuntimeError:
                return set()
            finally:
                _release(modules)
        pairs = zip(held, found, strict=True)
        return {name for name, gradient in pairs if gradient is not None and bool((gradient != 0).any())}


def _release(modules: Sequence[nn.Module]) -> None:
    for module in modules:
        for _, entry, _, _ in all_in_forward(module):
            entry.held = None


def _advice(names: Sequence[str]) -> str:
    listed = "".join(f"'{name}', " for name in names).strip()
    return f'Exclude what is not used: TRAINER.QUANT.EXCLUDE "({listed})"'


def _stored(entry: InForward, owner: nn.Module, leaf: str) -> Tensor:
    """Return what the prompt file would hold; before the first fit, the parameter as it is."""
    weight = owner._parameters[leaf]
    assert weight is not None
    with torch.no_grad():
        used = entry.values(weight).detach().clone()
    if entry.fake.active:
        stored = stored_tensor(leaf, weight, entry.fake).tensor().to(weight.device)
        assert torch.equal(stored, used), f"{leaf}: the stored values are not those that are used"
    return used


def _changed(values: Tensor, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(values.numel())
    spread = values.float().std().item() if values.numel() > 1 else 0.0
    return values + (torch.randn(values.shape, generator=generator) * scale * max(spread, 0.01)).to(values)
