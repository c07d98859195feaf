"""The precisions of training (``TRAINER.*.PREC``), and what each needs of the model and the device."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qprompt.backbones import ClipModel, convert_weights_
from qprompt.errors import UserError
from qprompt.prompted_clip import PromptedCLIP
from qprompt.prompts import Method
from qprompt.runs.devices import check_precision, idle_gpu

log = logging.getLogger(__name__)
FP16_UPSTREAM = "fp16-upstream"
PRECISIONS = ("fp16", "fp32", "amp", "bf16", FP16_UPSTREAM)
_BACKBONE = {"fp16": torch.float16, "bf16": torch.bfloat16, FP16_UPSTREAM: torch.float16}


def usable_precision(precision: str, device: torch.device, key: str) -> str:
    """Return `precision`, or fp32 where half precision has no hardware. UserError if the GPU cannot be used.

    Args:
        precision: that the run asks for.
        device: of the run.
        key: of the config, for messages.
    """
    check_precision(device, precision, key)
    if device.type != "cpu":
        (torch.zeros(1, device=device) + 1).item()  # a GPU without kernels fails here, before any long work
        if (count := torch.cuda.device_count()) > 1:
            more = "'qprompt sweep' spreads runs over all of them"
            log.info("%d GPUs are visible: a run uses one (%s). %s.", count, device, more)
        return precision
    if unused := idle_gpu():
        log.info("%s is not supported: this run computes on the CPU", unused)
    if precision in ("fp16", "amp"):
        log.info("PREC %s needs a GPU: this run computes in fp32 on the CPU (bf16 works there too)", precision)
        return "fp32"
    if precision == FP16_UPSTREAM:  # its rounding is what it is for
        log.info("PREC %s computes in fp16 on the CPU too, many times slower than fp32", precision)
    return precision


def check_optimizer(precision: str, method: Method, optimizer: str) -> None:
    """Raise UserError for an optimizer that cannot update fp16 parameters."""
    if precision == FP16_UPSTREAM and method.upstream_fp16 and optimizer != "sgd":
        raise UserError(
            f"OPTIM.NAME {optimizer} divides by a number that is rounded to 0 in fp16 parameters "
            f"(TRAINER.{method.node}.PREC {precision}): type OPTIM.NAME sgd."
        )


def convert_backbone_(clip_model: ClipModel, precision: str, method: Method | None = None) -> None:
    """Convert a frozen CLIP to the precision of a run."""
    as_upstream_in_fp32 = precision == FP16_UPSTREAM and method is not None and method.upstream_fp32_model
    if precision in _BACKBONE and not as_upstream_in_fp32:
        convert_weights_(clip_model, _BACKBONE[precision])
    if precision == "amp":
        # Autocast would convert the frozen weights in every step. The first layer says the type of what flows between
        # the layers (`clip_model.dtype`): fp32.
        convert_weights_(clip_model, torch.float16, but=("visual.conv1.weight",))


def train_like_upstream_(model: PromptedCLIP, method: Method) -> None:
    """Give a new model the precision in which upstream's code trains with PREC fp16: parameters, features and logits.

    Args:
        model: its backbone is converted already.
        method: of the prompts.
    """
    for name, parameter in model.named_parameters():
        if method.is_upstream_fp16(name):
            parameter.data = parameter.data.half()
    model.feature_dtype, model.prompt_dtype = model.clip_model.dtype, torch.float16


class RoundedAway:
    """Counts the entries of half-precision parameters that steps leave unchanged, since the update is too small.

    An fp16 number near w has neighbours at a distance of about w / 1000: a smaller update than half of that is lost.
    """

    def __init__(self, learned: list[tuple[str, Tensor]], before: Mapping[str, int] | None = None):
        """Begin to count, or go on from the `state` in a checkpoint."""
        self.tensors = [p for _, p in learned if p.dtype == torch.float16]
        self.entries = sum(p.numel() for p in self.tensors)
        self._before = [p.detach().clone() for p in self.tensors]
        known = before or {}
        self.steps = known.get("steps", 0)
        self._unchanged: int | Tensor = known.get("unchanged", 0)

    def state(self) -> dict[str, int]:
        """Return what a resumed run needs to know."""
        return {"steps": self.steps, "unchanged": int(self._unchanged)}

    @torch.no_grad()
    def observe(self) -> None:
        """Count after a step. Nothing waits for the device."""
        self.steps += 1
        for before, parameter in zip(self._before, self.tensors, strict=True):
            self._unchanged = self._unchanged + (before == parameter).sum()
            before.copy_(parameter)

    @property
    def share(self) -> float:
        """The share of the entries that a step left unchanged, on average."""
        return int(self._unchanged) / max(1, self.steps * self.entries)

    def record(self) -> dict[str, Any]:
        """Return what metrics.json says."""
        return {"fp16_entries": self.entries, "unchanged_share": round(self.share, 4)} if self.steps else {}
