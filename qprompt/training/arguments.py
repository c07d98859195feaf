"""The command line of train.py: CoOp's and MaPLe's."""

import argparse
import os
from collections.abc import Sequence

from qprompt import __version__

DESCRIPTION = """Train or evaluate a prompt learner: the command line of CoOp and MaPLe.

  python train.py --trainer QCoOp --dataset-config-file configs/datasets/tiny_world.yaml \\
      --config-file configs/trainers/QCoOp/tiny.yaml --output-dir output/first --seed 1 \\
      DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base

  python train.py --trainer QCoOp ... --eval-only --model-dir output/first \\
      --output-dir output/first_new DATASET.SUBSAMPLE_CLASSES new

A mistake in what was typed ends with one line and exit code 2, before any training.
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments of ``train.py``."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", default="", help="data root: the folder that holds the data sets' folders")
    add(
        "--output-dir",
        type=os.path.expanduser,
        default="",
        help="where log.txt, metrics.json and checkpoints go (default: ./output)",
    )
    add(
        "--resume",
        type=os.path.expanduser,
        default="",
        metavar="DIR",
        help="resume the run whose checkpoints are in DIR",
    )
    add("--seed", type=int, help="0 or more fixes all random numbers (default: the config's; negative: not fixed)")
    add("--source-domains", nargs="+", help="source domains of a domain generalization data set")
    add("--target-domains", nargs="+", help="target domains of a domain generalization data set")
    add("--transforms", nargs="+", help="image transforms for training, e.g. random_resized_crop random_flip normalize")
    add("--config-file", default="", help="configs/trainers/<Trainer>/<name>.yaml")
    add("--dataset-config-file", default="", help="configs/datasets/<name>.yaml")
    add("--trainer", default="", help="ZeroshotCLIP, CoOp, QCoOp, MaPLe, QMaPLe, ...")
    add("--backbone", default="", help='"tiny" (embedded), ViT-B/16, RN50, ... (MODEL.BACKBONE.PATH: your own file)')
    add("--head", default="", help="name of the head (for compatibility with Dassl)")
    add("--eval-only", action="store_true", help="evaluate what --model-dir holds")
    add(
        "--model-dir",
        type=os.path.expanduser,
        default="",
        metavar="DIR",
        help="output folder of the training run to evaluate",
    )
    add(
        "--load-epoch",
        type=_epoch,
        metavar="N|last|all",
        help="checkpoint to evaluate (default: the best if one was chosen on validation data, else the last); "
        "all: each in turn",
    )
    add(
        "--log-to",
        action="append",
        default=[],
        choices=("wandb", "mlflow"),
        help="log scalars, settings and results there too, besides TensorBoard (repeatable)",
    )
    add(
        "--deterministic",
        action="store_true",
        help="compute with kernels that repeat their bits on a GPU, which is slower; an operation that has none stops "
        "the run (config key DETERMINISTIC)",
    )
    add("--skip-finished", action="store_true", help="exit 0 if --output-dir holds this run, finished")
    add("--no-train", action="store_true", help="build everything, train nothing")
    add(
        "--help-config",
        nargs="?",
        const="",
        metavar="KEY",
        help="print what config keys mean and expect: all, a group (OPTIM) or one (OPTIM.LR)",
    )
    add("--version", action="version", version=f"qprompt {__version__}")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, e.g. DATASET.NUM_SHOTS 16")
    return parser.parse_args(argv)


def _epoch(text: str) -> int | str:
    return text if text in ("last", "all") else int(text)
