"""The mixin that turns any Dassl trainer of prompts into its quantized version.

    @TRAINER_REGISTRY.register()
    class QCoOp(QuantizedPrompts, CoOp):
        quantized = ("prompt_learner.ctx",)

The trainer itself is not changed. Parameters keep their identity when they are quantized, so whatever it built before
(optimizer, scheduler, moving average) still works on them.
"""

import contextlib
import dataclasses
import logging
from typing import Any

from torch import nn

from qprompt.errors import UserError
from qprompt.io.logs import show_logs
from qprompt.prompt_files import accounting
from qprompt.prompts import Method
from qprompt.quantization.api import finish_, quantized_parameters, refresh_
from qprompt.quantization.parameters import match_parameters
from qprompt.quantization.state_dict_hooks import unquantized_view
from qprompt.training import selection
from qprompt.training.defaults import quant_config
from qprompt.training.other_state import OtherState
from qprompt.training.own_prompts import OwnPrompts
from qprompt.training.proof import InferenceFails
from qprompt.training.step_record import RecordedSteps
from qprompt.training.step_watch import StepWatch
from qprompt.training.stored_prompt import StoredPrompt
from qprompt.training.third_party import Run, runs

log = logging.getLogger(__name__)


class QuantizedPrompts(RecordedSteps, OwnPrompts, StoredPrompt):
    """Quantize the prompts of the trainer that follows in the bases: fake-quantized in training, packed after it.

    Attributes:
        quantized: names or glob patterns of parameters of ``self.model``; ``TRAINER.QUANT.INCLUDE`` replaces them. If
            both are empty, the method of the trainer names them, or else the rules of `qprompt.training.selection`.
        prompted: the module that holds the quantized tensors: ``self.model``, in most trainers.
        half: names of the other trained tensors, which are stored and used in half precision.
        copies: moving averages of it that the trainer maintains.
        run: whether the prompt was trained and stored.
    """

    quantized: tuple[str, ...] = ()
    model: Any

    def __init__(self, *args, **options):
        self.run, self._exchanged = Run(type(self).__name__), []
        if self._in_forward:
            show_logs()  # the script does not know of our log; Dassl, which is imported now, may have turned it off
        super().__init__(*args, **options)
        if hasattr(self, "prompted") and self._in_forward:
            runs.append(self.run)
            self.copies = tuple(selection.quantized_copies(self, self.prompted))
            with contextlib.suppress(InferenceFails):  # some models are complete only when training starts
                self._prove()
            self._as_initialized, self._other_state = self._sums(), OtherState(self)
            self._built, self._known = self._as_initialized, {n for n, _ in self.prompted.named_parameters()}
            self._watch = StepWatch(self.prompted, type(self).__name__)

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        if quant_config(cfg).mode == "ptq" and cfg.TEST.FINAL_MODEL == "best_val":
            raise UserError(
                "TRAINER.QUANT.MODE ptq quantizes the last step's prompt, TEST.FINAL_MODEL best_val tests another: "
                "type TEST.FINAL_MODEL last_step."
            )

    def build_model(self):
        super().build_model()
        if isinstance(getattr(self, "model", None), nn.DataParallel):
            log.info("A quantized run uses one of the GPUs. Choose it with CUDA_VISIBLE_DEVICES; run others beside it.")
            self.model = self.model.module
        config = quant_config(self.cfg)
        self.prompted = selection.prompted_module(self)
        model = getattr(self, "model", None)
        self._is_model = isinstance(model, nn.Module) and self.prompted is selection.unwrapped(model)
        method = getattr(self, "method", None)
        known = self.quantized or (method.quantized_parameters if isinstance(method, Method) else ())
        names = config.include or known or selection.prompt_names(self, self.prompted)
        names = match_parameters(self.prompted, names, config.exclude)
        if self._in_forward:
            config = self._with_bits_of_its_kind(config, names)
            self._quantize_in_forward(dataclasses.replace(config, include=(), exclude=()), names)
        else:
            self._quantize(config, names)
        log.info(accounting.table(self.prompted, self.half))
        if self._in_forward:
            log.info(selection.left_out(self, self.prompted, names))

    def _refresh(self) -> list[str]:
        if self._in_forward:
            self._put_back()
            self._quantize_replaced()
            if not self._proven:
                self._prove()
        self.run.trained, self.run.stored = True, False
        refitted = refresh_(self.prompted)
        for copy in self.copies:
            refresh_(copy)
        return refitted

    def before_train(self):
        super().before_train()
        self.copies = tuple(selection.quantized_copies(self, self.prompted))

    def forward_backward(self, *batch, **options):
        refitted = self._refresh()  # before the forward pass that uses the codebook
        self._measure(refitted)
        outer, self._in_step = self._in_step, True
        try:
            # Code that averages state dicts in here averages the full-precision prompts.
            with unquantized_view(), self._watch.step() if self._watch is not None else contextlib.nullcontext():
                result = super().forward_backward(*batch, **options)
        finally:
            self._in_step = outer
        self._write_unread()
        return result

    def train(self, *args, **options):
        """Train, and store the prompt of a trainer whose own loop does not call `after_train`."""
        super().train(*args, **options)
        if self._in_forward and self.run.trained and not self.run.stored:
            self._finish()
            self.write_prompt()

    def save_model(self, epoch, directory, *args, **options):
        """Save a checkpoint, and in a third-party trainer the prompt of this moment."""
        self._put_back()
        with unquantized_view(False):  # also where a training step saves
            super().save_model(epoch, directory, *args, **options)
        ready = all(fake.active for fake, _ in quantized_parameters(self.prompted).values())
        if self._in_forward and self.run.trained and ready and directory == self.output_dir:
            self.write_prompt()

    def _finish(self) -> list[str]:
        return [name for module in (self.prompted, *self.copies) for name in finish_(module)]

    def after_train(self):
        if self._finish():
            self.save_model(self.max_epoch - 1, self.output_dir)  # only now (PTQ): what is stored is what is tested
        if self.recorder is not None:
            self.recorder.close()
        self.tested = None
        self._finished, self.run.stored = True, False
        if self._in_forward:
            self._check_again()
            self._warn_of_other_state()
        super().after_train()  # tests; with TEST.FINAL_MODEL best_val on the checkpoint that was best
        self.write_prompt()

    def run_state(self):
        """Add the name of the trainer to what a resumed run needs (bundled engine only)."""
        return {**super().run_state(), "quantized_trainer": type(self).__name__}

    def load_run_state(self, state):
        """Refuse to resume a full-precision run as a quantized one."""
        if state.get("quantized_trainer") != type(self).__name__:
            raise UserError(
                f"the checkpoint is of another trainer, not of {type(self).__name__}. Use another --output-dir; "
                "MODEL.INIT_WEIGHTS path/to/model.pth.tar-N starts from its prompts."
            )
        super().load_run_state(state)
