#!/usr/bin/env python3
"""Base-to-new runs with evaluation, as processes: upstream's CoOp by its own train.py, our plain path, our fast one.

    python benchmarks/base_to_new.py --coop ../CoOp
    python benchmarks/base_to_new.py --seeds 1 --epochs 2

CoOp and QCoOp train on the base classes of a generated tree and are tested on base and new ones; then the ablation:
QCoOp with more --bits. Upstream has no QCoOp: its CoOp counts for it. A ViT and a text branch of 8
and 6 layers of width 192, random weights, so that images and text share the time as ViT-B/16 and 50 classes do; CoOp's
config for ViT-B/16, random crops and flips in it. "epochs" is the fast path with FEATURE_CACHE epochs. CPU time of the
whole processes, imports in it; what imports take is given apart.
"""

import argparse
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from measure import save

from qprompt.backbones.random_weights import ClipShape

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.upstream import ROOT, make_caltech_tree, run_checkout, save_tiny_clip_archive, train_args  # noqa: E402

SHAPE = ClipShape(128, 64, 8, 192, 8, 192, 3, 6)
VARIANTS = {
    "plain": ({"QPROMPT_REFERENCE": "1"}, ["FEATURE_CACHE", "off"]),
    "fast": ({}, ["FEATURE_CACHE", "auto"]),
    "epochs": ({}, ["FEATURE_CACHE", "epochs"]),
}


def seconds_of(*arguments, **keywords):
    """CPU seconds of a checkout's train.py."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_checkout(*arguments, **keywords)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train_and_test(checkout, clip, data, output, trainer, seed, epochs, extra=(), **more):
    """Train on base classes, which tests on them, then test on new ones: CPU seconds of both."""
    options = ["INPUT.SIZE", "(64, 64)", "DATALOADER.TRAIN_X.BATCH_SIZE", "32", "OPTIM.MAX_EPOCH", epochs, *extra]
    training = train_args(data, output, trainer, "DATASET.SUBSAMPLE_CLASSES", "base", *options, shots=16, seed=seed)
    flags = ["--eval-only", "--model-dir", output, "--load-epoch", epochs, "DATASET.SUBSAMPLE_CLASSES", "new"]
    testing = train_args(data, f"{output}_new", trainer, *flags, *options, shots=16, seed=seed)
    return sum(seconds_of(checkout, args, clip=clip, **more) for args in (training, testing))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 3, 4, 8], help="of the ablation")
    parser.add_argument("--coop", help="path of a CoOp checkout to measure beside ours")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        clip = save_tiny_clip_archive(folder / "clip.pt", SHAPE)
        data = make_caltech_tree(folder / "upstream", classes=40, images=32)
        for name in VARIANTS:  # each with caches of its own
            shutil.copytree(data, folder / name)

        def ours(variant, trainer, seed, bits):
            env, options = VARIANTS[variant]
            output = folder / "output" / variant / f"{trainer}{bits}-{seed}"
            extra = [*options, "MODEL.BACKBONE.PATH", clip, "TRAINER.QUANT.BITS", bits]
            data = folder / variant
            return train_and_test(ROOT, clip, data, output, trainer, seed, args.epochs, extra, env=env)

        def add(name, method, seed, bits, seconds):
            rows.append({"path": name, "method": method, "seed": seed, "bits": bits, "seconds": seconds})
            print(f"{name:9} {method:6} seed {seed}, {bits:2} bits: {seconds:7.1f} s", flush=True)

        imports = seconds_of(ROOT, ["-c", "import trainers.qcoop"], clip=clip, program=[])
        for seed in args.seeds:
            if args.coop:
                output = folder / "output" / f"upstream-{seed}"
                took = train_and_test(Path(args.coop).resolve(), clip, data, output, "CoOp", seed, args.epochs)
                add("upstream", "CoOp", seed, 16, took)
            for variant in VARIANTS:
                add(variant, "CoOp", seed, 16, ours(variant, "CoOp", seed, 1))
                for bits in args.bits if variant == "epochs" else args.bits[:1]:
                    add(variant, "QCoOp", seed, bits, ours(variant, "QCoOp", seed, bits))
    totals = {}
    for name in ("upstream", *VARIANTS):
        totals[name] = sum(row["seconds"] for row in rows if row["path"] == name and row["bits"] in (args.bits[0], 16))
    totals["upstream"] *= 2  # its CoOp in place of QCoOp
    base = totals["upstream"] or totals["plain"]
    ablation = sum(row["seconds"] for row in rows if row["path"] == "epochs" and row["method"] == "QCoOp")
    same = len(args.bits) * sum(row["seconds"] for row in rows if row["path"] == "plain" and row["method"] == "QCoOp")
    for name, total in totals.items():
        print(f"CoOp and QCoOp, {name:9} {total:8.1f} s {base / max(total, 1e-9):6.1f}x")
    print(f"{len(args.bits)} bits: {ablation:.1f} s; plain {same:.1f} s ({same / ablation:.1f}x)")
    print(f"Imports take {imports:.1f} s a process")
    more = {"epochs": args.epochs, "imports_s": imports, "totals_s": totals}
    save("base_to_new", rows, **more, ablation_s={"epochs": ablation, "plain": same})


if __name__ == "__main__":
    main()
