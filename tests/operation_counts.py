"""Operations and host synchronizations of a training step in the shapes of ViT-B/16, counted without a GPU.

    python tests/operation_counts.py             # the table of docs/internals/performance.md
    python tests/operation_counts.py --kinds     # also how often each operation occurs
    python tests/operation_counts.py --json      # for the test

The real step of the real trainers runs on fake tensors: they have a device, a type and a shape, but no values.
PyTorch's own dispatch decides about casts and attention, as on a GPU. `cuda_standin` computes values too, which takes
too long in these shapes; its library lets autograd believe in a GPU here too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from fnmatch import filter as matching
from math import inf
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from cuda_standin import library, record
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode, fake_tensor
from torch.optim import optimizer as torch_optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[1]
GPU = torch.device("cuda", 0)


class Case(NamedTuple):
    """A training step to count: see `CASES`."""

    trainer: str
    config: str
    precision: str
    batch: int
    classes: int = 100
    features: bool = False
    recorded: bool = False  # whether it is one of the steps, every tenth, that the recorder measures
    budgeted: bool = False  # whether the fast test counts it

    def __str__(self) -> str:
        more = [", features kept"] * self.features + [", with the recorder"] * self.recorded
        return f"{self.trainer} {self.precision}, batch {self.batch}, {self.classes} classes{''.join(more)}"


COOP, MAPLE = "vit_b16_ep50_ctxv1.yaml", "vit_b16_c2_ep5_batch4_2ctx.yaml"
CASES = (
    Case("CoOp", COOP, "fp32", 32),
    Case("CoOp", COOP, "fp16", 32, budgeted=True),
    Case("CoOp", COOP, "fp16", 32, features=True, budgeted=True),
    Case("CoOp", COOP, "fp16", 32, features=True, classes=1000),
    Case("CoOp", COOP, "amp", 32),
    Case("QCoOp", COOP, "fp16", 32),
    Case("MaPLe", MAPLE, "fp16", 4),
    Case("QMaPLe", MAPLE, "fp16", 4),
    Case("QMaPLe", MAPLE, "fp16", 4, recorded=True, budgeted=True),
    Case("QMaPLe", MAPLE, "amp", 4),
)


class FakeGpu(TorchDispatchMode):
    """Runs operations of the GPU on fake tensors and records them. Operations of the CPU compute real values."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        target = None if asked is None else torch.device(asked).type
        if target != "cuda" and not any(isinstance(each, FakeTensor) for each in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        if func.namespace == "aten":  # not prim.device, which asks for an attribute
            record.note(func, args, kwargs, lambda each: isinstance(each, FakeTensor), target)
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0
        if func is torch.ops.aten._to_copy.default and target == "cpu":
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        with self.fake:
            if func is torch.ops.aten._weight_norm_interface_backward.default:  # torch 2.4 does not know its shapes
                return torch.empty_like(args[1]), torch.empty_like(args[2])
            return func(*args, **kwargs)


@contextmanager
def a_fake_gpu() -> Iterator[FakeGpu]:
    """Within the context, tensors on the GPU are fake."""
    gpu = FakeGpu()
    foreach = [*torch_optimizer._foreach_supported_types, FakeTensor]
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.cuda, "_lazy_init", lambda: None))
        stack.enter_context(patch.object(torch_optimizer, "_foreach_supported_types", foreach))
        stack.enter_context(patch.object(FakeTensor, "data_ptr", lambda tensor: id(tensor)))
        for name in {"init_cuda_context", "init_gpu_context"} & vars(fake_tensor).keys():
            stack.enter_context(patch.object(fake_tensor, name, lambda *_: None))  # it would make a real tensor
        stack.enter_context(gpu)
        yield gpu


def on_device(tensor: Tensor, fake: FakeTensorMode) -> Tensor:
    """Return a fake tensor like `tensor` on the GPU."""
    with fake:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)


def to_device_(module: nn.Module, fake: FakeTensorMode) -> None:
    """Replace the tensors of a module by fake ones on the GPU."""
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                owner._parameters[name] = nn.Parameter(on_device(parameter, fake), parameter.requires_grad)
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = on_device(buffer, fake)


def build_clip(precision: str) -> Any:
    """Return a CLIP in the shapes of ViT-B/16 without values, but for the embeddings, which are zero."""
    from qprompt.backbones import import_clip
    from qprompt.backbones.random_weights import SHAPES
    from qprompt.training.precision import convert_backbone_

    with torch.device("meta"):
        model = import_clip().model.CLIP(**asdict(SHAPES["ViT-B/16"])).float().eval().requires_grad_(False)
    for owner, name in ((model.token_embedding, "weight"), (model, "positional_embedding"), (model.ln_final, "weight")):
        owner._parameters[name] = nn.Parameter(torch.zeros(owner._parameters[name].shape), False)
    convert_backbone_(model, precision)
    return model


def build_trainer(case: Case, fake: FakeTensorMode, folder: str) -> Any:
    """Return the trainer of a case with everything that a training step uses."""
    from dassl.engine import TRAINER_REGISTRY
    from dassl.optim import build_lr_scheduler, build_optimizer

    from qprompt.quantization.api import quantized_parameters
    from qprompt.quantization.recorder import Recorder
    from qprompt.training.defaults import default_cfg, quant_config
    from qprompt.training.third_party import Run

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
        trainer.prompted = trainer.model
        known = [name for name, _ in trainer.model.named_parameters()]
        chosen = [name for pattern in trainer.method.quantized_parameters for name in matching(known, pattern)]
        trainer.recorder = Recorder(Path(folder) / "record.npz")
        trainer.run = Run(case.trainer)
        trainer._watch, trainer._in_step, trainer.copies = None, False, ()
        trainer._quantize(quant_config(cfg), chosen)
        for quantizer, _ in quantized_parameters(trainer.model).values():
            quantizer.step = 8 if case.recorded else 1
            quantizer.last_fit = quantizer.step - quantizer.config.min_interval
            quantizer.table = None  # of the CPU
            quantizer.config = type(quantizer.config)(**{**asdict(quantizer.config), "kl_threshold": inf})
    blocks = vars(trainer.model.layout.row_blocks())
    blocks |= {name: on_device(value, fake) for name, value in blocks.items() if isinstance(value, Tensor)}
    to_device_(clip_model, fake)
    to_device_(trainer.model, fake)
    trainer.optim = build_optimizer(trainer.method.checkpoint_module(trainer.model), cfg.OPTIM)
    trainer.sched = build_lr_scheduler(trainer.optim, cfg.OPTIM)
    trainer.scaler = torch.amp.GradScaler("cuda") if case.precision in ("fp16", "amp") else None
    return trainer


def count(case: Case) -> dict[str, Any]:
    """Return what the third step of a case does: by then the optimizer and the scaler have their state."""
    with tempfile.TemporaryDirectory() as folder, a_fake_gpu() as gpu:
        trainer = build_trainer(case, gpu.fake, folder)
        clip_model = trainer.model.clip_model
        pixels = clip_model.visual.input_resolution
        shape = (clip_model.text_projection.shape[1],) if case.features else (3, pixels, pixels)
        with gpu.fake:
            image = torch.empty(case.batch, *shape, device=GPU)
            label = torch.zeros(case.batch, dtype=torch.int64, device=GPU)
        for _ in range(3):
            with record.recording(record.Segment(str(case))) as segment:
                trainer.forward_backward({"img": image, "label": label})
    return segment.to_json()


def count_in_new_process(folder: Path, *options: str, sm: int = 90) -> subprocess.CompletedProcess[str]:
    """Run this program on a simulated GPU of compute capability `sm`."""
    command = [sys.executable, __file__, *options]
    return subprocess.run(command, env=library.environment(folder, sm), capture_output=True, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", type=int, nargs="+", default=range(len(CASES)), help="numbers of cases")
    args = parser.parse_args()
    if "STANDIN_SM" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            done = count_in_new_process(Path(folder), *sys.argv[1:])
        print(done.stdout, done.stderr, sep="", end="")
        sys.exit(done.returncode)
    from qprompt.engine import activate
    from qprompt.training.project import register_project

    activate()
    register_project(ROOT)
    counts = [count(CASES[number]) for number in args.only]
    if args.json:
        print(json.dumps(counts))
        return
    print("| training step | operations | waits |\n|---|---|---|")
    for each in counts:
        waits = each["synchronizations"]
        print(f"| {each['label']} | {sum(each['operations'].values()):,} | {sum(waits.values())} |")
        for name, number in sorted({**each["operations"], **waits}.items(), key=lambda kind: -kind[1]):
            print(f"|    {name} | {number} |") if args.kinds else None


if __name__ == "__main__":
    main()
