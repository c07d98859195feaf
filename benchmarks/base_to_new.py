#!/usr/bin/env python3
"""Base-to-new experiments with evaluation: upstream's CoOp with its own train.py, single runs, and a sweep.

    python benchmarks/base_to_new.py --coop ../CoOp
    python benchmarks/base_to_new.py --seeds 1 --epochs 2 --paths fast sweep

CoOp and QCoOp are trained on the base classes of a generated data set and tested on base and new classes; then QCoOp is
trained with more --bits. Upstream has no QCoOp, so its CoOp is counted twice. "plain" (the unmodified model, no caches)
and "fast" (the default of train.py) start a process per run, as upstream does, and run only the first seed. "sweep" is
`qprompt sweep --jobs 1`: features of an epoch are cached and PyTorch is imported once.

The image branch has 8 layers and the text branch 6, both of width 192, with random weights. With 20 base classes
(--classes 40), images and text take the same shares of the time as with ViT-B/16 and about 50 classes. The config is
CoOp's for ViT-B/16, with random crops and flips. Times are CPU time of all processes, including imports.
"""

import argparse
import contextlib
import ctypes
import os
import resource
import sys
import tempfile
from pathlib import Path

from measure import save

from qprompt.backbones.random_weights import ClipShape
from qprompt.io.files import write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.upstream import ROOT, make_caltech_tree, run_checkout, save_tiny_clip_archive, train_args  # noqa: E402

SHAPE = ClipShape(128, 64, 8, 192, 8, 192, 3, 6)
VARIANTS = {
    "plain": ({"QPROMPT_REFERENCE": "1"}, ["FEATURE_CACHE", "off"]),
    "fast": ({}, ["FEATURE_CACHE", "auto"]),
}
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans of children become children here, so that their time is counted


def seconds_of(*arguments, **keywords):
    """Return the CPU seconds of `run_checkout` and of every process that it started."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_checkout(*arguments, **keywords)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train_and_test(checkout, clip, data, output, trainer, seed, epochs, extra=(), **more):
    """Train and test on base classes, then test on new classes; return the CPU seconds of both."""
    options = ["INPUT.SIZE", "(64, 64)", "DATALOADER.TRAIN_X.BATCH_SIZE", "32", "OPTIM.MAX_EPOCH", epochs, *extra]
    training = train_args(data, output, trainer, "DATASET.SUBSAMPLE_CLASSES", "base", *options, shots=16, seed=seed)
    flags = ["--eval-only", "--model-dir", output, "--load-epoch", epochs, "DATASET.SUBSAMPLE_CLASSES", "new"]
    testing = train_args(data, f"{output}_new", trainer, *flags, *options, shots=16, seed=seed)
    return sum(seconds_of(checkout, args, clip=clip, **more) for args in (training, testing))


def sweep(folder, clip, data, epochs, seeds, bits):
    """Return the CPU seconds of `qprompt sweep` of CoOp and of QCoOp with these bits; finished runs are skipped."""
    spec = {
        "protocol": "base2new",
        "output": str(folder / "output" / "sweep"),
        "root": str(data),
        "datasets": ["caltech101"],
        "baselines": {"CoOp": "vit_b16_ctxv1"},
        "trainers": {"QCoOp": "vit_b16_ctxv1"},
        "seeds": seeds,
        "grid": {"TRAINER.QUANT.BITS": bits},
        "settings": {
            "INPUT.SIZE": "(64, 64)",
            "DATALOADER.NUM_WORKERS": 0,
            "DATALOADER.TRAIN_X.BATCH_SIZE": 32,
            "OPTIM.MAX_EPOCH": epochs,
            "TRAINER.COOP.PREC": "fp32",
            "MODEL.BACKBONE.PATH": str(clip),
        },
    }
    write_json(folder / "spec.yaml", spec)
    command = ["sweep", str(folder / "spec.yaml"), "--jobs", "1", "--gpus", "none"]
    return seconds_of(ROOT, command, clip=clip, program=("-m", "qprompt"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--classes", type=int, default=40, help="number of classes; half are base classes (default: %(default)s)"
    )
    parser.add_argument(
        "--bits", type=int, nargs="+", default=[1, 2, 3, 4, 8], help="first: for all paths; others: only for the sweep"
    )
    parser.add_argument("--paths", nargs="+", default=[*VARIANTS, "sweep"], choices=[*VARIANTS, "sweep"])
    parser.add_argument("--coop", help="path of a CoOp checkout to measure too")
    args = parser.parse_args()
    seconds = {}  # per seed: CoOp, QCoOp with one bit width, each further width
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        clip = save_tiny_clip_archive(folder / "clip.pt", SHAPE)
        data = {name: make_caltech_tree(folder / name, args.classes, 32) for name in ("upstream", *args.paths)}

        def run(path, checkout, trainer, seed, extra=(), **more):
            output = folder / "output" / path / f"{trainer}-{seed}"
            return train_and_test(checkout, clip, data[path], output, trainer, seed, args.epochs, extra, **more)

        imports = seconds_of(ROOT, ["-c", "import trainers.qcoop"], clip=clip, program=[])
        if args.coop:
            checkout = Path(args.coop).resolve()
            took = sum(run("upstream", checkout, "CoOp", seed) for seed in args.seeds) / len(args.seeds)
            seconds["upstream"] = {"CoOp": took, "QCoOp": took, "one more width": took}
            print(f"upstream {seconds['upstream']}", flush=True)
        for path in [path for path in args.paths if path in VARIANTS]:
            env, options = VARIANTS[path]
            extra = [*options, "MODEL.BACKBONE.PATH", clip]
            took = {trainer: run(path, ROOT, trainer, args.seeds[0], extra, env=env) for trainer in ("CoOp", "QCoOp")}
            seconds[path] = {**took, "one more width": took["QCoOp"]}
            print(f"{path} {seconds[path]}", flush=True)
        if "sweep" in args.paths:
            both = sweep(folder, clip, data["sweep"], args.epochs, args.seeds, args.bits[:1]) / len(args.seeds)
            seconds["sweep"] = {"CoOp and QCoOp": both}
            if args.bits[1:]:
                more = sweep(folder, clip, data["sweep"], args.epochs, args.seeds, args.bits)
                seconds["sweep"]["one more width"] = more / len(args.seeds) / len(args.bits[1:])
            print(f"sweep {seconds['sweep']}", flush=True)
    rows = []
    for path, took in seconds.items():
        width = took.get("one more width", 0.0)
        row = {"classes": args.classes, "path": path, "both_s": sum(took.values()) - width, "width_s": width} | took
        first = rows[0] if rows else row
        row |= {"both": first["both_s"] / row["both_s"], "width": first["width_s"] / width if width else None}
        rows.append(row)
        print(
            f"{args.classes} classes, {path:8} CoOp and QCoOp {row['both_s']:7.1f} s per seed ({row['both']:.1f}x); "
            f"one more bit width {width:7.1f} s ({row['width'] or 0:.1f}x)"
        )
    print(f"Imports take {imports:.1f} s per process")
    about = {"epochs": args.epochs, "seeds": args.seeds, "bits": args.bits, "imports_s": imports}
    rows = [row | about for row in rows]
    save("base_to_new", rows, keys=("classes", "path"))


if __name__ == "__main__":
    main()
