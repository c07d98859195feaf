"""Time that ``python -m qprompt --fast`` saves in unmodified checkouts, on a CPU in float32, with one thread.

The CLIP has random weights in the shape of ViT-B/16; there are 16 classes, images of 224 pixels, batches of 4. Seconds
are read from Dassl's log: the fastest training step after the first one, and the mean over batches of the evaluation.

    QPROMPT_COOP=... QPROMPT_MAPLE=... QPROMPT_PROMPTSRC=... QPROMPT_KGCOOP=... python benchmarks/dropin_fast.py
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qprompt.backbones.random_weights import SHAPES  # noqa: E402
from tests.upstream import VARIABLES, make_caltech_tree, run_checkout, save_tiny_clip_archive, train_args  # noqa: E402

TRAINERS = {
    "coop": ("QCoOp", "CoOp/vit_b16.yaml"),
    "maple": ("QMaPLe", "MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml"),
    "promptsrc": ("QPromptSRC", "PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx.yaml"),
    "kgcoop": ("QKgCoOp", "KgCoOp/vit_b16_ep100_ctxv1.yaml"),
}


def seconds(log: str) -> tuple[float, float]:
    """Return the seconds of a training step and of a batch in evaluation."""
    steps = [float(own) - float(data) for own, data in re.findall(r"time (\S+) \(\S+\) data (\S+) \(\S+\)", log)]
    batches, elapsed = re.findall(r"(\d+)/\1 \[(\d+:\d+)<", log)[-1]
    minutes, rest = elapsed.split(":")
    return min(steps[1:]), (60 * int(minutes) + int(rest)) / int(batches)


def main() -> None:
    """Print a row per checkout that the environment names."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = make_caltech_tree(Path(folder) / "data", classes=16, images=12)
        clip = save_tiny_clip_archive(Path(folder) / "clip.pt", SHAPES["ViT-B/16"])
        print("| trainer | text up to token | step, s | with --fast | test batch, s | with --fast |")
        print("|---|---|---|---|---|---|", flush=True)
        for name, (trainer, config) in TRAINERS.items():
            if not os.environ.get(VARIABLES[name]):
                continue
            figures, length = [], ""
            for flags in (), ("--fast",):
                options = train_args(data, Path(folder) / "".join((name, *flags)), trainer, config=config, shots=1)
                options += ["INPUT.SIZE", "(224, 224)", "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "TRAIN.PRINT_FREQ", "1"]
                options += [
                    "OPTIM.MAX_EPOCH",
                    "1",
                    "DATALOADER.TEST.BATCH_SIZE",
                    "4",
                    "DATASET.SUBSAMPLE_CLASSES",
                    "all",
                ]
                program = ["-m", "qprompt", "--fp32", *flags, "train.py"]
                checkout = Path(os.environ[VARIABLES[name]])
                log = run_checkout(checkout, options, clip=clip, engine="none", program=program)
                figures.append(seconds(log))
                length = (re.findall(r"up to token (\d+) of", log) or ["-"])[-1]
            (step, test), (fast_step, fast_test) = figures
            print(f"| {trainer} | {length} | {step:.2f} | {fast_step:.2f} | {test:.2f} | {fast_test:.2f} |", flush=True)


if __name__ == "__main__":
    main()
