#!/usr/bin/env python3
"""Peak memory of a training step, measured and estimated; one process per case (Linux).

    python benchmarks/memory.py
    python benchmarks/memory.py --cases CoOp:1000:0 MaPLe:1000:500 CoOp-CSC:1000:2000

A case is METHOD:CLASSES:BOUND[:plain]; BOUND is TEXT_MEMORY_MB, 0 for none. CoOp-CSC has 16 context vectors per class.
Random ViT-B/16 weights, fp32. "Tensors" is the peak of all live tensors, which the estimate predicts. "Process" is the
growth of resident memory, which includes libraries and gaps of the C heap.
"""

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path

import torch
from measure import LiveTensors, clock, reference, save
from text_encoding import class_names
from training_step import BATCH, build_model, step

from qprompt.backbones.load import build_clip
from qprompt.backbones.random_weights import random_state_dict
from qprompt.engine import activate
from qprompt.prompted_clip import PromptedCLIP, initial_context, prompt_layout
from qprompt.prompted_clip.memory import bound_text_memory_, training_memory

CASES = ("CoOp:100:0:plain", "CoOp:100:0", "CoOp:1000:0", "CoOp:1000:500", "MaPLe:1000:500", "CoOp-CSC:1000:2000")


def resident(peak):
    """Return the bytes of resident memory, now or at its peak."""
    key = "VmHWM:" if peak else "VmRSS:"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def class_specific(clip_model, names):
    from qprompt.prompts.coop import PromptLearner

    layout = prompt_layout(clip_model, names, " ".join(["X"] * 16), 16, "end", True)
    return PromptedCLIP(clip_model, layout, PromptLearner(initial_context(clip_model, 16, "", len(names))))


def one(case):
    """Measure a case in this process."""
    method, classes, bound, *plain = case.split(":")
    activate()
    from qprompt.prompts.coop import PromptLearner  # noqa: F401 (imported before memory is measured)

    base = resident(peak=False)
    clip_model = build_clip(random_state_dict("ViT-B/16"), "ViT-B/16")
    names, method, csc = class_names(int(classes)), method.partition("-")[0], method.endswith("-CSC")
    model = class_specific(clip_model, names) if csc else build_model(method, clip_model, names)
    if int(bound):
        bound_text_memory_(model.layout, clip_model, int(bound) * 10**6)
    n_image = len(model.prompts().image) if method == "MaPLe" else 0
    estimate = training_memory(clip_model, model.layout, BATCH[method], n_image)
    size = clip_model.visual.input_resolution
    image = torch.randn(BATCH[method], 3, size, size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which building the model set
    start = clock()
    live = LiveTensors(clip_model.parameters())
    with reference(bool(plain)), live:
        step(model, image, torch.arange(len(image)), optimizer)
    row = {"case": case, "rows": len(model.layout.rows), "parts": len(model.layout.parts)}
    row |= {
        "recomputed": model.layout.recomputed,
        "seconds": clock() - start,
        "peak_tensors": live.peak,
        "peak_process": resident(True) - base,
    }
    return row if plain else row | {"estimated_peak": estimate.peak, "estimated_text": estimate.text}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one)))
        return
    rows = []
    for case in args.cases:
        command = [sys.executable, __file__, "--one", case]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{case:20} {row['rows']:6} rows, {row['recomputed']} of {row['parts']} parts recomputed: tensors "
            f"{row['peak_tensors'] / 1e6:.0f} MB (estimate {row.get('estimated_peak', 0) / 1e6:.0f}), "
            f"process {row['peak_process'] / 1e6:.0f} MB, "
            f"{row['seconds']:.1f} s"
        )
    save("memory", rows, backbone="ViT-B/16")


if __name__ == "__main__":
    main()
