#!/usr/bin/env python3
"""Time that quantization adds to a training step: QCoOp over CoOp and QMaPLe over MaPLe, same model, same run.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --methods CoOp --backbones tiny --steps 300

A step is refresh_ (quantized only), forward, loss, backward and update. "features" is CoOp with cached image features:
the cheapest step, to which quantization adds the largest share. Plain and quantized steps take turns; the share is that
of the medians. It includes K-Means fits, which the KL gate may never ask for: --fit-every N forces one every N steps.
"operations" is the number of operations that quantization adds to a step when all tensors of one size are encoded in
one pass, as on a GPU, where their number decides the time.
"""

import argparse
import dataclasses
import math
import statistics

import torch
from measure import Operations, clock, save
from text_encoding import class_names
from training_step import BATCH, QUANTIZED, build_model, step

from qprompt.backbones import load_clip
from qprompt.backbones.load import build_clip
from qprompt.backbones.random_weights import random_state_dict
from qprompt.engine import activate
from qprompt.quantization.api import quantize_, quantized_parameters, refresh_


def measure(method, clip_model, given, n_classes, steps, fit_every):
    """Return the median seconds of a plain step, of a quantized step, and of its refresh_."""
    plain = build_model(method, clip_model, class_names(n_classes))
    quantized = build_model(method, clip_model, class_names(n_classes))
    quantized.load_state_dict(plain.state_dict())
    names, bits = QUANTIZED[method]
    quantize_(quantized, names=names, bits=bits)
    label = torch.arange(len(given)) % n_classes
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9) for model in (plain, quantized)]
    taken = {"plain": [], "quantized": [], "refresh": []}
    for number in range(steps + 3):
        start = clock()
        step(plain, given, label, optimizers[0])
        middle = clock()
        refresh_(quantized)
        if fit_every and number % fit_every == 0:
            for fake, weight in quantized_parameters(quantized).values():
                fake.fit(weight)
        refreshed = clock()
        step(quantized, given, label, optimizers[1])
        end = clock()
        if number >= 3:
            taken["plain"].append(middle - start)
            taken["quantized"].append(end - middle)
            taken["refresh"].append(refreshed - middle)
    fits = sum(fake.fits for fake, _ in quantized_parameters(quantized).values())
    operations = added_operations(plain, quantized, given, label, optimizers)
    return {name: statistics.median(s) for name, s in taken.items()} | {"fits": fits, "operations": operations}


def added_operations(plain, quantized, given, label, optimizers):
    """Count them in a step whose gate computes the divergence but fits no levels."""
    for fake, _ in quantized_parameters(quantized).values():
        fake.large, fake.table, fake.last_fit = False, None, fake.step - fake.config.min_interval
        fake.config = dataclasses.replace(fake.config, kl_threshold=math.inf)
    with Operations() as without:
        step(plain, given, label, optimizers[0])
    with Operations() as with_quantization:
        refresh_(quantized)
        step(quantized, given, label, optimizers[1])
    return with_quantization.count - without.count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(BATCH), choices=BATCH)
    parser.add_argument("--backbones", nargs="+", default=["tiny", "ViT-B/16"])
    parser.add_argument("--classes", type=int, default=15)
    parser.add_argument("--steps", type=int, default=0, help="default: 200 with the tiny backbone, 10 with others")
    parser.add_argument("--fit-every", type=int, default=0, metavar="N", help="force a K-Means fit every N steps")
    args = parser.parse_args()
    activate()
    rows = []
    for backbone in args.backbones:
        clip_model = load_clip("tiny") if backbone == "tiny" else build_clip(random_state_dict(backbone), backbone)
        size = clip_model.visual.input_resolution
        for method in args.methods:
            image = torch.randn(BATCH[method], 3, size, size)
            inputs = {"images": image}
            if method == "CoOp":
                with torch.no_grad():
                    inputs["features"] = clip_model.encode_image(image)
            for kind, given in inputs.items():
                steps = args.steps or (200 if backbone == "tiny" else 10)
                r = measure(method, clip_model, given, args.classes, steps, args.fit_every)
                added = r["quantized"] / r["plain"] - 1
                rows.append({"backbone": backbone, "method": method, "input": kind, "steps": steps, "added": added} | r)
                more = f"refresh_ {r['refresh'] * 1e6:.0f} us, {r['operations']} operations, {r['fits']} fits"
                print(
                    f"{backbone:9} Q{method:6} {kind:9} {r['plain'] * 1e3:9.2f} ms  {r['quantized'] * 1e3:9.2f} ms  "
                    f"{added:+7.2%}  ({more} in {steps} steps)"
                )
    save("overhead", rows, classes=args.classes, fit_every=args.fit_every)


if __name__ == "__main__":
    main()
