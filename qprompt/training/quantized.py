"""The mixin that turns any Dassl trainer of prompts into its quantized version.

    @TRAINER_REGISTRY.register()
    class QCoOp(QuantizedPrompts, CoOp):
        quantized = ("prompt_learner.ctx",)

The trainer itself is not changed. Parameters keep their identity when they are quantized, so whatever it built before
(optimizer, scheduler, moving average) still works on them.
"""

import dataclasses
import logging
import os
import os.path as osp
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from qprompt.data.preprocessing import Preprocessing
from qprompt.errors import UserError
from qprompt.prompt_files import accounting, packing
from qprompt.prompts import Method, methods
from qprompt.quantization.api import finish_, quantize_, refresh_
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.parameters import match_parameters
from qprompt.quantization.recorder import Recorder
from qprompt.quantization.state_dict_hooks import add_plain_state_dict_hooks_, unquantized_view
from qprompt.training import selection
from qprompt.training.defaults import quant_config

if TYPE_CHECKING:
    from dassl.engine import TrainerX as _Trainer
else:
    _Trainer = object  # whatever trainer follows in the bases; Dassl is not needed to import this module

PROMPT_FILE = "prompt.qprompt"
log = logging.getLogger(__name__)


def _held(optimizer: torch.optim.Optimizer) -> set[int]:
    """Return the ids of the parameters that an optimizer updates."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


class QuantizedPrompts(_Trainer):
    """Quantize the prompts of the trainer that follows in the bases: fake-quantized in training, packed after it.

    Attributes:
        quantized: names or glob patterns of parameters of ``self.model``; ``TRAINER.QUANT.INCLUDE`` replaces them. If
            both are empty, the method of the trainer names them, or else the rules of `qprompt.training.selection`.
        prompted: the module that holds the quantized tensors: ``self.model``, in most trainers.
        half: names of the other trained tensors, which are stored and used in half precision.
        copies: moving averages of it that the trainer maintains.
        prompt_record: what metrics.json says of the stored prompt.
        tested: the accuracy in percent of the last evaluation, and what it was measured on.
        preprocessing: of test images; None if the transform is not one that a prompt file can describe.
    """

    quantized: tuple[str, ...] = ()
    model: Any
    prompt_record: dict[str, Any] | None = None
    recorder: Recorder | None = None
    prompted: nn.Module
    half: list[str]
    copies: tuple[nn.Module, ...] = ()
    tested: dict[str, Any] | None = None
    preprocessing: Preprocessing | None = None

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        if quant_config(cfg).mode == "ptq" and cfg.TEST.FINAL_MODEL == "best_val":
            raise UserError(
                "TRAINER.QUANT.MODE ptq quantizes the last step's prompt, TEST.FINAL_MODEL best_val tests another: "
                "type TEST.FINAL_MODEL last_step."
            )

    def build_data_loader(self):
        super().build_data_loader()
        # Now, since a loader of cached features may replace the one that reads images.
        transform = getattr(getattr(self.test_loader, "dataset", None), "transform", None)
        self.preprocessing = Preprocessing.of_transform(transform)

    def build_model(self):
        super().build_model()
        if isinstance(getattr(self, "model", None), nn.DataParallel):
            log.info("A quantized run uses one of the GPUs. Choose it with CUDA_VISIBLE_DEVICES; run others beside it.")
            self.model = self.model.module
        config = quant_config(self.cfg)
        self.prompted = selection.prompted_module(self)
        method = getattr(self, "method", None)
        known = self.quantized or (method.quantized_parameters if isinstance(method, Method) else ())
        names = config.include or known or selection.prompt_names(self, self.prompted)
        names = match_parameters(self.prompted, names, config.exclude)
        trained = [name for name, p in self.prompted.named_parameters() if p.requires_grad]
        # What is reported is what the stored file gives: the other trained tensors are used as they are stored, too.
        self.half = [name for name in trained if name not in names] if isinstance(method, Method) else []
        selection.check_reach(self, self.prompted, names + self.half)
        quantized = [(self.prompted, names), *selection.equal_copies(self, self.prompted, names)]
        rounded = [(self.prompted, self.half), *selection.equal_copies(self, self.prompted, self.half)]
        before = {id(p) for p in self.prompted.parameters()}
        for module, local in quantized:
            quantize_(module, dataclasses.replace(config, include=tuple(local), exclude=()))
            add_plain_state_dict_hooks_(module)
        for module, local in rounded if self.half else ():
            quantize_(module, QuantConfig(bits=16, mode=config.mode, start_step=config.start_step), names=local)
        if any(p.requires_grad and id(p) not in before for p in self.prompted.parameters()):
            self._rebuild_optimizers()  # a learned step size trains too
        log.info(accounting.table(self.prompted, self.half))

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

    def before_train(self):
        super().before_train()
        self.recorder = Recorder(osp.join(self.output_dir, "quantization.npz"), self._writer)
        self.copies = tuple(selection.quantized_copies(self, self.prompted))

    def forward_backward(self, *batch):
        refitted = refresh_(self.prompted)  # before the forward pass that uses the codebook
        for copy in self.copies:
            refresh_(copy)
        if self.recorder is not None:
            self.recorder.step(self.prompted, refitted)
        with unquantized_view():  # code that averages state dicts in here averages the full-precision prompts
            return super().forward_backward(*batch)

    def after_epoch(self):
        # Weight histograms through training, as in the paper's figure: about 40 a run (every 5 of 200 epochs).
        if self.recorder is not None and (self.epoch + 1) % max(1, self.max_epoch // 40) == 0:
            self.recorder.histogram(self.prompted)
        super().after_epoch()

    def after_train(self):
        finished = [name for module in (self.prompted, *self.copies) for name in finish_(module)]
        if finished:
            self.save_model(self.max_epoch - 1, self.output_dir)  # only now (PTQ): what is stored is what is tested
        if self.recorder is not None:
            self.recorder.close()
        self.tested = None
        super().after_train()  # tests; with TEST.FINAL_MODEL best_val on the checkpoint that was best
        self.write_prompt()

    def test(self, *args, **kwargs):
        """Evaluate, and remember the accuracy for the prompt file."""
        result = super().test(*args, **kwargs)
        if isinstance(result, (int, float)) and 0 <= result <= 100:
            self.tested = {"accuracy": round(float(result), 4), "total": getattr(self.evaluator, "_total", None)}
        return result

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

    def write_prompt(self):
        """Store the prompt beside the checkpoint; report its size and its quantization error."""
        name = self.get_model_names()[0]
        path = osp.join(self.output_dir, name, PROMPT_FILE)
        packing.save(self.prompted, path, **self.prompt_metadata())
        record = accounting.summary(self.prompted, self.half)
        self.prompt_record = {
            "file": osp.join(name, PROMPT_FILE),
            "file_bytes": os.path.getsize(path),
            "method": self.cfg.TRAINER.QUANT.METHOD,
            "bits": self.cfg.TRAINER.QUANT.BITS,
            **record,
        }
        snr = "exact" if record["snr_db"] is None else f"{record['snr_db']:.2f} dB SNR, MSE {record['mse']:.3e}"
        log.info(
            f"Prompt saved to {path}: {record['payload_bytes']:,} bytes of payload, "
            f"{record['refits']} re-fits, quantization error {snr}"
        )

    def prompt_metadata(self) -> dict[str, Any]:
        """Return the metadata of the prompt file.

        It is all that `load_classifier` needs besides CLIP. A trainer that knows more (backbone weights, the words
        around the context) returns it from `describe_prompts`.
        """
        describe = getattr(super(), "describe_prompts", dict)
        cfg = self.cfg
        if self.preprocessing is None:
            log.warning("The prompt file does not describe the test transform. Predictions will use CLIP's own.")
        return {
            "method": type(self).__name__,
            "backbone": cfg.MODEL.BACKBONE.NAME,
            **describe(),
            "classnames": list(self.dm.dataset.classnames),
            "preprocessing": self.preprocessing and self.preprocessing.to_json(),
            "run": {
                "dataset": cfg.DATASET.NAME,
                "classes": cfg.DATASET.get("SUBSAMPLE_CLASSES", "all"),
                "shots": cfg.DATASET.NUM_SHOTS,
                "seed": cfg.SEED,
            },
            "metrics": self.tested,
        }


def register_methods() -> None:
    """Register the trainers X and QX of every method that has none yet. The engine must be active."""
    from dassl.engine import TRAINER_REGISTRY

    from qprompt.training.prompt_trainer import PromptTrainer

    known = set(TRAINER_REGISTRY.registered_names())
    for method in methods():
        if method.name not in known:
            trainer = type(method.name, (PromptTrainer,), {"method": method, "__doc__": method.summary})
            TRAINER_REGISTRY.register(trainer)
        if method.trainer not in known:
            base = TRAINER_REGISTRY.get(method.name)
            TRAINER_REGISTRY.register(type(method.trainer, (QuantizedPrompts, base), {}))
