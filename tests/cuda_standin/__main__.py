"""Train and evaluate on the stand-in: ``python -m cuda_standin RUNS.json``, in the environment of `library`.

RUNS.json is a list of objects:

    name             any
    argv             a command: ``train.py ...`` or ``qprompt ...``
    device           ``cuda``: the stand-in; ``cpu``: the same computation without it, also in half precision
    spoil_gradients  optional: true makes every gradient NaN

The reports are written to RUNS.json.report: name, exit code, output, loss of each step, and what each step and each
evaluated batch asked of the device.
"""

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from cuda_standin import record, tensor

BETWEEN = "between"


class Observer:
    """Records a trainer's steps, each with the fetching of the next batch, and its evaluated batches."""

    def __init__(self, trainer: Any, spoil_gradients: bool = False):
        self.segments: list[record.Segment] = []
        self.losses: list[float] = []
        self.recorded = contextlib.ExitStack()
        step, inference, evaluate = trainer.forward_backward, trainer.model_inference, trainer.evaluator.evaluate

        def observed_step(batch: Any) -> Any:
            # What follows the last step of an epoch (checkpoints, a validation) does not belong to the step.
            self.begin(BETWEEN if trainer.batch_idx + 1 == trainer.num_batches else "step")
            summary = step(batch)
            self.losses.append(summary["loss"])
            return summary

        def observed_inference(image: Any) -> Any:
            self.begin("evaluated batch")
            return inference(image)

        def observed_evaluate() -> Any:
            self.begin(BETWEEN)
            return evaluate()

        trainer.forward_backward, trainer.model_inference = observed_step, observed_inference
        trainer.evaluator.evaluate = observed_evaluate
        if spoil_gradients:
            for _, parameter in trainer.learned():
                parameter.register_hook(lambda grad: grad * float("nan"))

    def begin(self, label: str) -> None:
        self.recorded.close()
        self.segments.append(record.Segment(label))
        self.recorded.enter_context(record.recording(self.segments[-1]))


def run(name: str, argv: list[str], device: str, spoil_gradients: bool = False) -> dict[str, Any]:
    """Return the report of one command."""
    import dassl.engine

    from qprompt.__main__ import main as qprompt
    from qprompt.training.program import main as train
    from qprompt.training.prompt_trainer import PromptTrainer

    observers: list[Observer] = []
    build = dassl.engine.build_trainer

    def build_observed(cfg: Any) -> Any:
        trainer = build(cfg)
        observers.append(Observer(trainer, spoil_gradients))
        return trainer

    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(patch.object(dassl.engine, "build_trainer", build_observed))
        if device == "cuda":
            stack.enter_context(tensor.standin())
        else:  # the computation of a GPU, on the CPU
            scaler = torch.amp.GradScaler
            for place, attribute, value in (
                (torch.cuda, "is_available", lambda: False),
                (torch.cuda, "device_count", lambda: 0),
                (torch.amp, "GradScaler", lambda kind, **options: scaler("cpu", **options)),
                (PromptTrainer, "usable_precision", lambda self, precision: precision),
            ):
                stack.enter_context(patch.object(place, attribute, value))
        program, *arguments = argv
        try:
            code = train(arguments, project=record.PROJECT) if program == "train.py" else qprompt(arguments)
        except Exception:
            code = None
            traceback.print_exc(file=err)
    for each in observers:
        each.recorded.close()
    return {
        "name": name,
        "code": code,
        "out": out.getvalue(),
        "err": err.getvalue(),
        "losses": [loss for each in observers for loss in each.losses],
        "segments": [s.to_json() for each in observers for s in each.segments if s.label != BETWEEN],
    }


def main() -> None:
    from qprompt.engine import activate

    activate()
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    reports = [run(**each) for each in json.loads(path.read_text())]
    path.with_name(path.name + ".report").write_text(json.dumps(reports))


if __name__ == "__main__":
    main()
