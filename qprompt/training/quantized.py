"""The mixin that turns any Dassl trainer of prompts into its quantized version.

    @TRAINER_REGISTRY.register()
    class QCoOp(QuantizedPrompts, CoOp):
        quantized = ("prompt_learner.ctx",)

The trainer itself is not changed. Parameters keep their identity when they are quantized, so whatever it built before
(optimizer, scheduler, moving average) still works on them.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import os.path as osp
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qprompt.data.preprocessing import Preprocessing
from qprompt.errors import UserError
from qprompt.io.logs import show_logs
from qprompt.prompt_files import accounting, packing
from qprompt.prompts import Method, methods
from qprompt.quantization.api import count_ahead, finish_, quantize_, quantized_parameters, refresh_
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.parameters import match_parameters
from qprompt.quantization.recorder import Recorder
from qprompt.quantization.state_dict_hooks import add_plain_state_dict_hooks_, unquantized_view
from qprompt.training import selection
from qprompt.training.defaults import quant_config
from qprompt.training.proof import InferenceFails
from qprompt.training.step_watch import StepWatch
from qprompt.training.third_party import Run, ThirdPartyPrompts, modules_in_use, runs

PROMPT_FILE = "prompt.qprompt"
log = logging.getLogger(__name__)


def _held(optimizer: torch.optim.Optimizer) -> set[int]:
    """Return the ids of the parameters that an optimizer updates."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


class QuantizedPrompts(ThirdPartyPrompts):
    """Quantize the prompts of the trainer that follows in the bases: fake-quantized in training, packed after it.

    Attributes:
        quantized: names or glob patterns of parameters of ``self.model``; ``TRAINER.QUANT.INCLUDE`` replaces them. If
            both are empty, the method of the trainer names them, or else the rules of `qprompt.training.selection`.
        prompted: the module that holds the quantized tensors: ``self.model``, in most trainers.
        half: names of the other trained tensors, which are stored and used in half precision.
        copies: moving averages of it that the trainer maintains.
        prompt_record: what metrics.json says of the stored prompt.
        tested: the accuracy in percent on the test images, by the last evaluation, and their number.
        preprocessing: of test images; None if the transform is not one that a prompt file can describe.
        run: whether the prompt was trained and stored.
    """

    quantized: tuple[str, ...] = ()
    model: Any
    prompt_record: dict[str, Any] | None = None
    recorder: Recorder | None = None
    tested: dict[str, Any] | None = None
    preprocessing: Preprocessing | None = None
    _finished = False
    _measured: Any = None

    def __init__(self, *args, **options):
        self.run = Run(type(self).__name__)
        if self._in_forward:
            show_logs()  # the script does not know of our log
        super().__init__(*args, **options)
        if hasattr(self, "prompted") and self._in_forward:
            runs.append(self.run)
            self.copies = tuple(selection.quantized_copies(self, self.prompted))
            with contextlib.suppress(InferenceFails):  # some models are complete only when training starts
                self._prove()
            self._watch = StepWatch(self.prompted, type(self).__name__)

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
        if self._in_forward:
            config = self._with_bits_of_its_kind(config, names)
            self._quantize_in_forward(dataclasses.replace(config, include=(), exclude=()), names)
        else:
            self._quantize(config, names)
        log.info(accounting.table(self.prompted, self.half))
        if self._in_forward:
            log.info(selection.left_out(self, self.prompted, names))

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

    def _refresh(self) -> list[str]:
        if self._in_forward and not self._proven:
            self._prove()
        self.run.trained, self.run.stored = True, False
        refitted = refresh_(self.prompted)
        for copy in self.copies:
            refresh_(copy)
        return refitted

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

    def forward_backward(self, *batch, **options):
        refitted = self._refresh()  # before the forward pass that uses the codebook
        self._measured = None
        self._record(lambda recorder: setattr(self, "_measured", recorder.measure(self.prompted, refitted)))
        outer, self._in_step = self._in_step, True
        try:
            # Code that averages state dicts in here averages the full-precision prompts.
            with unquantized_view(), self._watch.step() if self._watch is not None else contextlib.nullcontext():
                result = super().forward_backward(*batch, **options)
        finally:
            self._in_step = outer
        if self._measured is not None:  # the trainer did not ask `also_read`
            self._write_measured(self._measured.numbers.cpu().numpy())
        return result

    def also_read(self) -> list[tuple[Tensor, Callable[[np.ndarray], None]]]:
        """Return what to read from the device with the loss: for the record, and for the next `refresh_`."""
        counted = count_ahead(self.prompted)
        found: list[tuple[Tensor, Callable[[np.ndarray], None]]] = []
        if counted is not None:
            found.append((counted.numbers(), functools.partial(counted.take, ahead=True)))
        if self._measured is not None:
            found.append((self._measured.numbers, self._write_measured))
        return found

    def _write_measured(self, numbers: np.ndarray) -> None:
        measured, self._measured = self._measured, None
        self._record(lambda recorder: recorder.write(measured, numbers))

    def _record(self, entry: Callable[[Recorder], None]) -> None:
        """Make an entry in the record, which is a diagnostic: no failure of it ends a run."""
        if self.recorder is None:
            return
        try:
            entry(self.recorder)
        except UserError:
            raise
        except Exception as error:
            log.warning("quantization.npz ends here: %s: %s", type(error).__name__, error)
            self.recorder = None

    def after_epoch(self):
        # Weight histograms through training, as in the paper's figure: about 40 a run (every 5 of 200 epochs).
        if (self.epoch + 1) % max(1, self.max_epoch // 40) == 0:
            self._record(lambda recorder: recorder.histogram(self.prompted))
        super().after_epoch()

    def train(self, *args, **options):
        """Train, and store the prompt of a trainer whose own loop does not call `after_train`."""
        super().train(*args, **options)
        if self._in_forward and self.run.trained and not self.run.stored:
            self._finish()
            self.write_prompt()

    def test(self, *args, **options):
        """Evaluate, and remember the accuracy for the prompt file.

        What a third-party trainer tests after training is stored before, since some end the process in the test.
        """
        if self._in_forward and self._finished and not self.run.stored:
            self.write_prompt()
        result = super().test(*args, **options)
        split = (args[0] if args else options.get("split")) or self.cfg.TEST.SPLIT
        on_test_images = split != "val" or self.val_loader is None
        if on_test_images and isinstance(result, (int, float)) and 0 <= result <= 100:
            self.tested = {"accuracy": round(float(result), 4), "total": getattr(self.evaluator, "_total", None)}
        return result

    def save_model(self, epoch, directory, *args, **options):
        """Save a checkpoint, and in a third-party trainer the prompt of this moment."""
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

    def write_prompt(self):
        """Store the prompt; report its size and its quantization error.

        Our own trainers store it beside the checkpoint; third-party ones outside of the folder of the checkpoints,
        which some of them list.
        """
        file = PROMPT_FILE if self._in_forward else osp.join(self.get_model_names()[0], PROMPT_FILE)
        path = osp.join(self.output_dir, file)
        module = modules_in_use(self)[self._source] if self._in_forward else self.prompted
        trained = [name for name, p in self.prompted.named_parameters() if p.requires_grad]
        packing.save(module, path, exact=self._in_forward, also=trained, **self.prompt_metadata())
        record = accounting.summary(module, self.half)
        self.prompt_record = {
            "file": file,
            "file_bytes": os.path.getsize(path),
            "method": self.cfg.TRAINER.QUANT.METHOD,
            "bits": self.cfg.TRAINER.QUANT.BITS,
            **record,
        }
        self.run.stored = self.run.written = True
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
        describe, method = getattr(super(), "describe_prompts", dict), getattr(self, "method", None)
        cfg = self.cfg
        if self.preprocessing is None and self._finished:
            log.warning("The prompt file does not describe the test transform. Predictions will use CLIP's own.")
        return {
            "method": method.trainer if isinstance(method, Method) else type(self).__name__,
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
            "metrics": self.tested if self._finished else None,
            "checkpoint": self._checkpoint_keys() if self._in_forward else None,
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
