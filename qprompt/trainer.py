"""The mixin that turns any Dassl trainer of prompts into its quantized version, and its ``TRAINER.QUANT`` config node.

    @TRAINER_REGISTRY.register()
    class QCoOp(QuantizedPrompts, CoOp):
        quantized = ("prompt_learner.ctx",)

The trainer itself is untouched: its parameters keep their identity when they are quantized, so whatever it built
before (optimizer, scheduler, moving average) goes on working on them.
"""

import dataclasses
import os
import os.path as osp
from typing import Any

from yacs.config import CfgNode

from qprompt import accounting, packing
from qprompt.errors import UserError
from qprompt.fake_quant import QuantConfig, finish_, quantize_, refresh_
from qprompt.recorder import Recorder
from qprompt.states import both_kinds_

PROMPT_FILE = "prompt.qprompt"


def add_quant_cfg(cfg: CfgNode) -> None:
    """Add ``TRAINER.QUANT`` to a Dassl config: the fields of QuantConfig in upper case, with its defaults."""
    cfg.TRAINER.QUANT = CfgNode({f.name.upper(): f.default for f in dataclasses.fields(QuantConfig)})


def quant_config(cfg: CfgNode) -> QuantConfig:
    """The QuantConfig that ``TRAINER.QUANT`` describes; UserError names a value that cannot be."""
    try:
        return QuantConfig(**{name.lower(): value for name, value in cfg.TRAINER.QUANT.items()})
    except UserError as error:
        raise UserError(f"TRAINER.QUANT: {error}") from None


class QuantizedPrompts:
    """Quantize the prompts of the trainer that follows in the bases: fake-quantized in training, packed after it.

    `quantized`: names or glob patterns of parameters of ``self.model``; ``TRAINER.QUANT.INCLUDE`` replaces them.
    """

    quantized: tuple[str, ...] = ()
    prompt_record: dict[str, Any] | None = None  # what metrics.json says of the stored prompt
    recorder: Recorder | None = None

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        if quant_config(cfg).mode == "ptq" and cfg.TEST.FINAL_MODEL == "best_val":
            raise UserError(
                "TRAINER.QUANT.MODE ptq quantizes the last step's prompt, TEST.FINAL_MODEL best_val tests another: "
                "type TEST.FINAL_MODEL last_step."
            )

    def build_model(self):
        super().build_model()
        before = {id(p) for p in self.model.parameters()}
        quantize_(self.model, quant_config(self.cfg), self.quantized)
        both_kinds_(self.model)
        if any(p.requires_grad and id(p) not in before for p in self.model.parameters()):
            self._rebuild_optimizers()  # a learned step size trains too
        print(accounting.table(self.model))

    def _rebuild_optimizers(self):
        from dassl.optim import build_lr_scheduler, build_optimizer

        for name, old in list(self._optims.items()):
            if old is None:
                continue
            self._optims[name] = build_optimizer(self._models[name], self.cfg.OPTIM)
            self._scheds[name] = build_lr_scheduler(self._optims[name], self.cfg.OPTIM)
            if getattr(self, "optim", None) is old:
                self.optim, self.sched = self._optims[name], self._scheds[name]

    def before_train(self):
        super().before_train()
        self.recorder = Recorder(osp.join(self.output_dir, "quantization.npz"), self._writer)

    def forward_backward(self, batch):
        refitted = refresh_(self.model)  # the codebook's step comes before the forward pass that uses it
        if self.recorder is not None:
            self.recorder.step(self.model, refitted)
        return super().forward_backward(batch)

    def after_train(self):
        if finish_(self.model):  # quantized only now (PTQ): what is stored and tested is the quantized prompt
            self.save_model(self.max_epoch - 1, self.output_dir)
        if self.recorder is not None:
            self.recorder.close()
        super().after_train()  # tests; with TEST.FINAL_MODEL best_val on the checkpoint that was best
        self.write_prompt()

    def write_prompt(self):
        """Pack the prompt beside the checkpoint; say what it takes and what quantization did to it."""
        name = self.get_model_names()[0]
        path = osp.join(self.output_dir, name, PROMPT_FILE)
        packing.save(self.model, path, **self.prompt_metadata())
        record = accounting.summary(self.model)
        self.prompt_record = {
            "file": osp.join(name, PROMPT_FILE),
            "file_bytes": os.path.getsize(path),
            "method": self.cfg.TRAINER.QUANT.METHOD,
            "bits": self.cfg.TRAINER.QUANT.BITS,
            **record,
        }
        snr = "exact" if record["snr_db"] is None else f"{record['snr_db']:.2f} dB SNR, MSE {record['mse']:.3e}"
        print(
            f"Prompt saved to {path}: {record['payload_bytes']:,} bytes of payload, "
            f"{record['refits']} re-fits, quantization error {snr}"
        )

    def prompt_metadata(self) -> dict[str, Any]:
        """What the prompt file says beside the tensors: enough to use it again."""
        return {"method": self.cfg.TRAINER.NAME, "backbone": self.cfg.MODEL.BACKBONE.NAME}
