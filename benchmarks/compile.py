#!/usr/bin/env python3
"""torch.compile: training steps of the fast path with and without it, and after how many steps compiling pays off.

    python benchmarks/compile.py
    python benchmarks/compile.py --cases tiny:CoOp:15:32 ViT-B/16:MaPLe:100:4

A case is BACKBONE:METHOD:CLASSES:BATCH; CoOp with cached image features, MaPLe with images. Compile time is the time of
the first two steps with an empty cache of Inductor.
"""

import argparse
import os
import tempfile

import torch
from measure import clock, save, side_by_side
from text_encoding import class_names
from training_step import build_model, step

from qprompt.backbones import load_clip
from qprompt.backbones.load import build_clip
from qprompt.backbones.random_weights import random_state_dict
from qprompt.engine import activate

CASES = ("tiny:CoOp:15:32", "tiny:MaPLe:15:4", "ViT-B/16:CoOp:50:32", "ViT-B/16:MaPLe:50:4")


def measure(case, repeat):
    backbone, method, n_classes, batch = case.split(":")
    n_classes, batch = int(n_classes), int(batch)
    clip_model = load_clip("tiny") if backbone == "tiny" else build_clip(random_state_dict(backbone), backbone)
    size = clip_model.visual.input_resolution
    given, label = torch.randn(batch, 3, size, size), torch.arange(batch) % n_classes
    if method == "CoOp":
        with torch.no_grad():
            given = clip_model.encode_image(given)
    models = {"eager": build_model(method, clip_model, class_names(n_classes))}
    models["compiled"] = torch.compile(build_model(method, clip_model, class_names(n_classes)))
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=0.002) for name, model in models.items()}
    calls = {name: lambda name=name: step(models[name], given, label, optimizers[name]) for name in models}
    start = clock()
    calls["compiled"](), calls["compiled"]()
    compiling = clock() - start
    timed = side_by_side(calls, repeat or (100 if backbone == "tiny" else 3))
    row = {"case": case, "compile_s": compiling} | {f"{name}_s": seconds[0] for name, seconds in timed.items()}
    gain = row["eager_s"] - row["compiled_s"]
    return row | {"pays_after_steps": round(compiling / gain) if gain > 0 else None}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--repeat", type=int, default=0, help="default: 100 with the tiny backbone, 3 with others")
    args = parser.parse_args()
    activate()
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # in this process, so that its time is counted
        for case in args.cases:
            row = measure(case, args.repeat)
            rows.append(row)
            print(
                f"{case:22} {row['eager_s']:8.4f} s per step, compiled {row['compiled_s']:8.4f} s "
                f"({row['eager_s'] / row['compiled_s']:.2f}x), compiling {row['compile_s']:.0f} s: "
                f"pays after {row['pays_after_steps'] or 'no number of'} steps",
                flush=True,
            )
            torch.compiler.reset()
    save("compile", rows, keys=("case",))


if __name__ == "__main__":
    main()
