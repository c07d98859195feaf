"""What `QuantizedPrompts` does in our own trainers, whose prompts it quantizes by parametrizations."""

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from qprompt.errors import UserError
from qprompt.quantization.api import quantize_
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.state_dict_hooks import add_plain_state_dict_hooks_

if TYPE_CHECKING:
    from dassl.engine import TrainerX as _Trainer
else:
    _Trainer = object  # whatever trainer follows in the bases; Dassl is not needed to import this module


class OwnPrompts(_Trainer):
    """The part of `QuantizedPrompts` that quantizes by parametrizations.

    Attributes:
        prompted: the module that holds the quantized tensors.
        half: names of the other trained tensors, which are stored and used in half precision.
    """

    prompted: nn.Module
    half: list[str]

    def _quantize(self, config: QuantConfig, names: list[str]) -> None:
        """Quantize the tensors of our own trainers by parametrizations."""
        trained = [name for name, p in self.prompted.named_parameters() if p.requires_grad]
        # What is reported is what the stored file gives: the other trained tensors are used as they are stored, too.
        self.half = [name for name in trained if name not in names]
        before = {id(p) for p in self.prompted.parameters()}
        quantize_(self.prompted, dataclasses.replace(config, include=tuple(names), exclude=()))
        add_plain_state_dict_hooks_(self.prompted)
        if self.half:
            rounded = QuantConfig(bits=16, mode=config.mode, start_step=config.start_step)
            quantize_(self.prompted, rounded, names=self.half)
        if any(p.requires_grad and id(p) not in before for p in self.prompted.parameters()):
            self._rebuild_optimizers()  # a learned step size trains too

    def _rebuild_optimizers(self):
        from dassl.optim import build_lr_scheduler, build_optimizer

        for name, old in list(self._optims.items()):
            if old is None:
                continue
            self._optims[name] = build_optimizer(self._models[name], self.cfg.OPTIM)
            if _held(old) - _held(self._optims[name]) or len(old.param_groups) != len(self._optims[name].param_groups):
                raise UserError(
                    f"TRAINER.QUANT.METHOD {self.cfg.TRAINER.QUANT.METHOD} trains step sizes too, and the optimizer of "
                    f"{name} is not the one that build_optimizer makes of it: choose another METHOD, e.g. kmeans."
                )
            self._scheds[name] = build_lr_scheduler(self._optims[name], self.cfg.OPTIM)
            if getattr(self, "optim", None) is old:
                self.optim, self.sched = self._optims[name], self._scheds[name]


def _held(optimizer: torch.optim.Optimizer) -> set[int]:
    """Return the ids of the parameters that an optimizer updates."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}
