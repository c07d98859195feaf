"""Refuse a third-party training step that trains a prompt in full precision."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from qprompt.errors import UserError
from qprompt.quantization.forward_pass import all_in_forward


class StepWatch:
    """Watches the quantized parameters of a module until each has changed for the first time.

    `proof` shows that inference uses the quantized values; the training step may still read a parameter outside of
    forward passes. Then it changes the parameter without a forward pass that used it.

    Args:
        module: with parameters that are quantized in the forward pass.
        trainer: its name.
    """

    def __init__(self, module: nn.Module, trainer: str) -> None:
        self.trainer, self.unseen = trainer, list(all_in_forward(module))
        self.begin()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Surround a training step; UserError names what it trained in full precision."""
        self.begin()
        yield
        self.end()

    def begin(self) -> None:
        self.watched: list[Any] = []
        for name, entry, owner, leaf in self.unseen:
            weight = owner._parameters[leaf]
            if weight is not None and entry.fake.active:
                self.watched.append((name, entry, weight, weight.detach().clone(), entry.uses.count))

    def end(self) -> None:
        changed = [w for w in self.watched if not torch.equal(w[2], w[3])]
        wrong = [name for name, entry, _, _, uses in changed if entry.uses.count == uses]
        if wrong:
            listed = "".join(f"'{name}', " for name in wrong).strip()
            raise UserError(
                f"{self.trainer} trains {', '.join(wrong)} in full precision: its training step reads them outside of "
                f'forward passes. Exclude them: TRAINER.QUANT.EXCLUDE "({listed})"'
            )
        seen = {name for name, *_ in changed}
        self.unseen = [entry for entry in self.unseen if entry[0] not in seen]
