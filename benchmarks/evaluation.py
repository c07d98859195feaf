#!/usr/bin/env python3
"""Evaluation of CoOp: upstream's model, plain path, fast path, and fast path with cached image features.

    python benchmarks/evaluation.py --coop ../CoOp
    python benchmarks/evaluation.py --classes 100 --images 64

Random ViT-B/16 weights, fp32. Upstream encodes all prompts for every batch; "plain" encodes whole prompts once; "fast"
encodes only needed rows once; "cached" is "fast" with image features that were computed before.
"""

import argparse

import torch
from measure import reference, save, side_by_side, upstream
from text_encoding import class_names
from training_step import build_model, upstream_model

from qprompt.backbones.load import build_clip
from qprompt.backbones.random_weights import random_state_dict
from qprompt.engine import activate


@torch.no_grad()
def evaluate(model, batches):
    return [model(batch).argmax(dim=1) for batch in batches]


def measure(weights, clip_model, n_classes, batches, module, repeat):
    names = class_names(n_classes)
    model = build_model("CoOp", clip_model, names).eval()
    with torch.no_grad():
        features = [model.image_features(batch) for batch in batches]

    def run(plain, given):
        model.invalidate_cache()
        with reference(plain):
            return evaluate(model, given)

    calls = {"fast": lambda: run(False, batches), "plain": lambda: run(True, batches)}
    calls["cached"] = lambda: run(False, features)
    if module is not None:
        theirs = upstream_model("CoOp", module, weights, names, clip_model.visual.input_resolution)
        with torch.no_grad():
            theirs.prompt_learner.ctx.copy_(model.prompt_learner.ctx)
        calls["upstream"] = lambda: evaluate(theirs, batches)
    timed = side_by_side(calls, repeat, warm=False)
    row = {"classes": n_classes, "images": sum(map(len, batches)), "batch": len(batches[0])}
    return row | {n: {"median_s": m, "fastest_s": f, "slowest_s": s} for n, (m, f, s) in timed.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--coop", help="path of a CoOp checkout to measure too")
    args = parser.parse_args()
    activate()
    weights = random_state_dict("ViT-B/16")
    clip_model = build_clip(weights, "ViT-B/16")
    module = upstream(args.coop, "coop") if args.coop else None
    size = clip_model.visual.input_resolution
    batches = torch.randn(args.images, 3, size, size).split(args.batch)
    rows = []
    for n_classes in args.classes:
        row = measure(weights, clip_model, n_classes, batches, module, args.repeat)
        rows.append(row)
        base = row.get("upstream", row["plain"])["median_s"]
        print(f"{n_classes} classes, {args.images} images in batches of {args.batch}")
        for name in ("upstream", "plain", "fast", "cached"):
            if name in row:
                seconds = row[name]["median_s"]
                print(f"  {name:9} {seconds:8.2f} s {base / seconds:7.1f}x", flush=True)
    save("evaluation", rows, ("classes", "images"), backbone="ViT-B/16")


if __name__ == "__main__":
    main()
