"""Count what a training step asks of a GPU, without a GPU: operations, and waits of the host for the device.

    python tests/operation_counts.py             # the table, in Markdown
    python tests/operation_counts.py --kinds     # also how often each kind of operation occurs
    python tests/operation_counts.py --json      # for the test

The real training step of the real trainers runs on fake tensors in the shapes of ViT-B/16: they have a device, a type
and a shape, but no values. PyTorch's own dispatch decides about casts and attention as on a GPU. Needs the libraries
of `cuda_stub`, which let autograd believe in one GPU.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.optim import optimizer as torch_optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
# Launches no kernel, and is not marked as a view.
FREE = {
    *("detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "empty", "empty_like", "empty_strided"),
    *("new_empty", "new_empty_strided", "is_same_size", "set_", "device", "resize_"),
}


class Case(NamedTuple):
    """A training step to count: see `CASES`."""

    trainer: str
    config: str
    precision: str
    batch: int
    classes: int = 100
    features: bool = False
    recorded: bool = False  # whether it is one of the steps, every tenth, that the recorder measures

    def __str__(self) -> str:
        more = [", features kept"] * self.features + [", with the recorder"] * self.recorded
        return f"{self.trainer} {self.precision}, batch {self.batch}, {self.classes} classes{''.join(more)}"


COOP, MAPLE = "vit_b16_ep50_ctxv1.yaml", "vit_b16_c2_ep5_batch4_2ctx.yaml"
CASES = (
    Case("CoOp", COOP, "fp32", 32),
    Case("CoOp", COOP, "fp16", 32),
    Case("CoOp", COOP, "fp16", 32, features=True),
    Case("CoOp", COOP, "amp", 32),
    Case("QCoOp", COOP, "fp16", 32),
    Case("MaPLe", MAPLE, "fp16", 4),
    Case("QMaPLe", MAPLE, "fp16", 4),
    Case("QMaPLe", MAPLE, "fp16", 4, recorded=True),
    Case("QMaPLe", MAPLE, "amp", 4),
)


class DeviceLog(TorchDispatchMode):
    """Runs operations on fake tensors of the GPU, and counts them.

    Operations on tensors of the CPU compute real values.

    Attributes:
        operations: name -> how often a kernel was launched.
        waits: (what, where) -> how often the host waited for the device.
    """

    def __init__(self, fake: FakeTensorMode):
        super().__init__()
        self.fake, self.operations, self.waits = fake, Counter[str](), Counter[tuple[str, str]]()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        leaves = tree_leaves((arguments, keywords))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        asked = keywords.get("device")
        on_device = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not on_device and (asked is None or torch.device(asked).type != "cuda"):
            return function(*arguments, **keywords)
        self._count(function, arguments, keywords, tensors)
        if function is aten._local_scalar_dense.default:
            return torch.ones((), dtype=arguments[0].dtype).item()
        if function is aten._to_copy.default and asked is not None and torch.device(asked).type == "cpu":
            return torch.ones(arguments[0].shape, dtype=keywords.get("dtype") or arguments[0].dtype)
        with self.fake:
            return function(*arguments, **keywords)

    def _count(self, function: Any, arguments: Any, keywords: Any, tensors: list[Tensor]) -> None:
        name = function.overloadpacket.__name__
        if not function.is_view and name not in FREE:
            self.operations[name] += 1
        what = _wait(function, arguments, keywords)
        if what:
            self.waits[what, _place()] += 1


def _wait(function: Any, arguments: Any, keywords: Any) -> str:
    """Say why the host waits for the device in this operation; "" if it does not."""
    name = function.overloadpacket.__name__
    blocking = not keywords.get("non_blocking", False)
    if name == "_local_scalar_dense":
        return "read of a number"
    if name in ("nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "bincount", "equal"):
        return name
    if name == "_to_copy" and keywords.get("device") is not None:
        source, target = arguments[0].device.type, torch.device(keywords["device"]).type
        if source == "cuda" and target == "cpu":
            return "copy to the host"
        return "blocking copy to the device" if source == "cpu" and target == "cuda" and blocking else ""
    if name == "copy_":
        target, source = (tensor.device.type for tensor in arguments[:2])
        if source == "cuda" and target == "cpu":
            return "copy to the host"
        waits = source == "cpu" and target == "cuda" and not (len(arguments) > 2 and arguments[2])
        return "blocking copy to the device" if waits else ""
    if name in ("index", "index_put_", "_index_put_impl_", "index_put"):
        indices = [index for index in arguments[1] if isinstance(index, Tensor)]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            return "boolean index"
        return "index of the host" if any(index.device.type == "cpu" for index in indices) else ""
    return "repeat_interleave" if name == "repeat_interleave" and keywords.get("output_size") is None else ""


def _place() -> str:
    """Return the line of this project, or of GradScaler, that is being run."""
    frame, root = sys._getframe(2), str(ROOT)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(f"{root}/qprompt"):
            return f"{file.removeprefix(root + '/')}:{frame.f_lineno}"
        if file.endswith("grad_scaler.py"):
            return "GradScaler"
        frame = frame.f_back  # type: ignore[assignment]
    return "torch"


def to_device_(module: nn.Module, fake: FakeTensorMode) -> None:
    """Replace the tensors of a module by fake ones on the GPU."""

    def on_device(tensor: Tensor) -> Tensor:
        with fake:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)

    for owner in module.modules():
        for name, tensor in owner._parameters.items():
            if tensor is not None and not isinstance(tensor, FakeTensor):
                owner._parameters[name] = nn.Parameter(on_device(tensor), tensor.requires_grad)
        for name, tensor in owner._buffers.items():
            if tensor is not None and not isinstance(tensor, FakeTensor):
                owner._buffers[name] = on_device(tensor)


def build_clip(precision: str) -> Any:
    """Return a CLIP in the shapes of ViT-B/16 without values, but for the embeddings, which are zero."""
    from qprompt.backbones import convert_weights_, import_clip
    from qprompt.backbones.random_weights import SHAPES

    with torch.device("meta"):
        model = import_clip().model.CLIP(**asdict(SHAPES["ViT-B/16"])).float().eval().requires_grad_(False)
    for owner, name in ((model.token_embedding, "weight"), (model, "positional_embedding"), (model.ln_final, "weight")):
        owner._parameters[name] = nn.Parameter(torch.zeros(owner._parameters[name].shape), False)
    if precision in ("fp16", "bf16"):
        convert_weights_(model, torch.float16 if precision == "fp16" else torch.bfloat16)
    return model


def build_trainer(case: Case, fake: FakeTensorMode, folder: str) -> Any:
    """Return the trainer of a case with everything that a training step uses."""
    from dassl.engine import TRAINER_REGISTRY
    from dassl.optim import build_lr_scheduler, build_optimizer

    from qprompt.quantization.api import quantized_parameters
    from qprompt.quantization.recorder import Recorder
    from qprompt.training.defaults import default_cfg, quant_config
    from qprompt.training.progress_guard import ProgressGuard

    kind = TRAINER_REGISTRY.get(case.trainer)
    cfg = default_cfg(case.trainer)
    cfg.merge_from_file(str(ROOT / "configs/trainers" / case.trainer / case.config))
    trainer: Any = kind.__new__(kind)
    trainer.__dict__.update(cfg=cfg, device=GPU, precision=case.precision, epoch=0, batch_idx=0, num_batches=9)
    trainer.output_dir, trainer._writer = os.devnull, None
    clip_model = build_clip(case.precision)
    names = [f"{'large ' * (number % 3)}object {number}" for number in range(case.classes)]
    trainer.model = trainer.method.build(clip_model, names, trainer.settings, 100.0)
    if case.trainer.startswith("Q"):
        from fnmatch import filter as matching

        trainer.prompted = trainer.model
        known = [name for name, _ in trainer.model.named_parameters()]
        chosen = [name for pattern in trainer.method.quantized_parameters for name in matching(known, pattern)]
        trainer.recorder = Recorder(Path(folder) / "record.npz")
        trainer._in_forward, trainer._watch, trainer._in_step, trainer.copies = False, None, False, ()
        trainer._quantize(quant_config(cfg), chosen)
        for quantizer, _ in quantized_parameters(trainer.model).values():
            quantizer.step = 8 if case.recorded else 1
            quantizer.last_fit = quantizer.step - quantizer.config.min_interval
            quantizer.table = None  # of the CPU
            quantizer.config = type(quantizer.config)(**{**asdict(quantizer.config), "kl_threshold": math.inf})
    to_device_(clip_model, fake)
    to_device_(trainer.model, fake)
    trainer.optim = build_optimizer(trainer.method.checkpoint_module(trainer.model), cfg.OPTIM)
    trainer.sched = build_lr_scheduler(trainer.optim, cfg.OPTIM)
    trainer.scaler = torch.amp.GradScaler("cuda") if case.precision in ("fp16", "amp") else None
    trainer.guard = ProgressGuard(trainer.learned(), 65536.0 if trainer.scaler else None)
    return trainer


@contextmanager
def a_fake_gpu() -> Iterator[DeviceLog]:
    """Within the context, tensors on the GPU are fake."""
    log, tolist = DeviceLog(FakeTensorMode(allow_non_fake_inputs=True)), Tensor.tolist
    foreach = [*torch_optimizer._foreach_supported_types, FakeTensor]
    with (
        mock.patch.object(torch.cuda, "_lazy_init", lambda: None),
        mock.patch.object(torch_optimizer, "_foreach_supported_types", foreach),
        mock.patch.object(Tensor, "tolist", lambda x: tolist(x.cpu() if isinstance(x, FakeTensor) else x)),
        log,
    ):
        yield log


def count(case: Case) -> DeviceLog:
    """Return what the third step of a case does: by then the optimizer and the scaler have their state."""
    with tempfile.TemporaryDirectory() as folder, a_fake_gpu() as log:
        trainer = build_trainer(case, log.fake, folder)
        clip_model = trainer.model.clip_model
        pixels = clip_model.visual.input_resolution
        shape = (clip_model.text_projection.shape[1],) if case.features else (3, pixels, pixels)
        with log.fake:
            image = torch.empty(case.batch, *shape, device=GPU)
            label = torch.zeros(case.batch, dtype=torch.int64, device=GPU)
        for _ in range(3):
            log.operations.clear()
            log.waits.clear()
            trainer.forward_backward({"img": image, "label": label})
    return log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", type=int)
    args = parser.parse_args()
    from qprompt.engine import activate
    from qprompt.training.project import register_project

    activate()
    register_project(ROOT)
    for case in CASES if args.only is None else CASES[args.only : args.only + 1]:
        log = count(case)
        print(f"| {case} | {log.operations.total()} | {log.waits.total()} |", flush=True)
        if args.kinds:
            for name, number in log.operations.most_common():
                print(f"    {number:5} {name}")
            for (what, where), number in log.waits.items():
                print(f"    {number:5} {what}: {where}")


if __name__ == "__main__":
    main()
