#!/usr/bin/env python3
"""The share of the entries of fp16 parameters that a training step leaves unchanged, by learning rate.

    python benchmarks/fp16_updates.py
    python benchmarks/fp16_updates.py --trainer MaPLe --rates 0.0035

Each rate is trained for a warm-up epoch at 1e-5 and an epoch at the rate, with PREC fp16-upstream, the embedded tiny
CLIP, base classes of the drawn data set and 16 shots, on the CPU. The shares depend on the sizes of weights and
gradients, and so on the backbone.
"""

import argparse
import contextlib
import io
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from qprompt.runs.project import find_project
from qprompt.training.arguments import parse_args
from qprompt.training.program import execute


def shares(trainer: str, rate: float) -> dict[float, float]:
    """Return the mean share of unchanged entries of the steps at each learning rate."""
    node = trainer.removeprefix("Q").upper()
    found = defaultdict(list)

    def watch(built: Any) -> None:
        step = built.forward_backward

        def watched(batch: Any) -> dict[str, float]:
            at, before = built.get_current_lr(), int(built.rounded._unchanged)
            summary = step(batch)
            found[at].append((int(built.rounded._unchanged) - before) / built.rounded.entries)
            return summary

        built.forward_backward = watched

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        argv = ["--trainer", trainer, "--seed", "1", "--output-dir", str(Path(folder) / "run")]
        argv += ["--dataset-config-file", "configs/datasets/tiny_world.yaml"]
        argv += ["--config-file", f"configs/trainers/{trainer}/tiny.yaml", "DATASET.NUM_SHOTS", "16"]
        argv += ["DATASET.SUBSAMPLE_CLASSES", "base", "USE_CUDA", "False", "FEATURE_CACHE_MB", "0"]
        argv += ["OPTIM.LR", str(rate), "OPTIM.MAX_EPOCH", "2", f"TRAINER.{node}.PREC", "fp16-upstream"]
        execute(parse_args(argv), find_project(), quiet=True, watch=watch)
    return {at: sum(each) / len(each) for at, each in found.items()}


def main() -> None:
    """Print a line per rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", default="CoOp", help="one with fp16 parameters (default CoOp)")
    parser.add_argument("--rates", nargs="+", type=float, default=[2e-4, 2e-3], help="default: 2e-4 2e-3")
    args = parser.parse_args()
    for rate in args.rates:
        found = shares(args.trainer, rate)
        print(args.trainer, ", ".join(f"{at:g}: {100 * share:.0f}%" for at, share in found.items()))


if __name__ == "__main__":
    main()
