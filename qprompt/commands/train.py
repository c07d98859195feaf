"""Train a prompt on your pictures, and compare it with zero-shot CLIP.

PICTURES is a folder with one folder per class, a list of pictures (.csv, .tsv, .json, .jsonl), or the name of a
benchmark data set (with --root). The settings are the published ones of the method; KEY VALUE pairs at the end change
them. The log goes to DIR/log.txt. Started again, the command resumes an unfinished run.

Examples:
  qprompt train drinks/
  qprompt train drinks/ --trainer QMaPLe --shots 8 --out output/drinks8 OPTIM.MAX_EPOCH 10
  qprompt train oxford_pets --root DATA
  qprompt train tiny_world --backbone tiny        nothing to download: drawn pictures and the embedded CLIP
"""

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qprompt.training.picture_run import PictureRun, Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt train``."""
    # So that --options may come after PICTURES and after KEY VALUE pairs.
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
    add = parser.add_argument
    add("pictures", metavar="PICTURES", help="folder, list, or name of a data set")
    add("--trainer", default="QCoOp", help="QCoOp (default), QMaPLe, CoOp, MaPLe, QCoCoOp, ...")
    add("--backbone", default="ViT-B/16", help="ViT-B/16 (default), RN50, ..., open_clip:MODEL/PRETRAINED, or tiny")
    add("--backbone-path", default="", metavar="FILE", help="CLIP weights in a file, instead of the named ones")
    add("--shots", type=int, default=16, metavar="N", help="training pictures per class (default 16; 0: all)")
    add("--seed", type=int, default=1, help="of the draw of the pictures and of the training (default 1)")
    add("--out", "--output-dir", default="", metavar="DIR", help="output folder (default: output/PICTURES/TRAINER)")
    add("--root", default="", metavar="DIR", help="data root of a named data set, or of the paths in a list")
    add(
        "--no-augment",
        action="store_true",
        help="no random crops and flips: image features are computed once, which is much faster on a CPU",
    )
    add("--device", default="", metavar="cuda|cpu", help="default: a GPU if there is one")
    add(
        "--deterministic",
        action="store_true",
        help="compute with kernels that repeat their bits on a GPU, which is slower",
    )
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-v", "--verbose", action="store_true", help="show the log")
    volume.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    add("settings", nargs="*", metavar="KEY VALUE", help="config keys, e.g. OPTIM.MAX_EPOCH 50")


def run(args: argparse.Namespace) -> int:
    """Train and print the summary."""
    from qprompt.io.logs import show_logs
    from qprompt.training.picture_run import PictureRun, train_on_pictures

    chosen = {name: value for name, value in vars(args).items() if name in PictureRun.__dataclass_fields__}
    picture_run = PictureRun(**chosen, augment=not args.no_augment)
    show_logs("stdout" if args.verbose else "stderr")
    progress = None if args.quiet or args.verbose else sys.stderr
    try:
        result = train_on_pictures(picture_run, progress, quiet=not args.verbose)
    except KeyboardInterrupt:
        print("qprompt train: interrupted. The same command resumes the run at its last checkpoint.", file=sys.stderr)
        return 130
    print("\n".join(_summary(picture_run, result)))
    return 0


def _summary(run: "PictureRun", result: "Result") -> list[str]:
    """Return the lines that say what was trained, how good it is, and how to use it."""
    from qprompt.io.durations import clock

    metrics, folder = result.metrics, result.folder
    total = metrics.results.get("total")
    lines = [f"{run.pictures}: {run.trainer} on {metrics.backbone}, {metrics.shots} shots, seed {metrics.seed}"]
    if result.already:
        lines[0] += " (this run had finished before; --out DIR starts another one)"
    elif metrics.time_s is not None:
        lines[0] += f", {clock(metrics.time_s)}"
    if metrics.accuracy is None or result.zero_shot.accuracy is None:
        lines.append("  test accuracy  not measured (TEST.NO_TEST)")
    else:
        lines.append(f"  test accuracy  {metrics.accuracy:.1f}%  (zero-shot CLIP: {result.zero_shot.accuracy:.1f}%)")
        lines[-1] += f", {total} pictures" if total else ""
    lines += [f"  note           {deviation}" for deviation in metrics.deviations]
    file = metrics.prompt.get("file")
    if file:
        path = folder / file
        lines.append(f"  prompt         {metrics.stored_bytes:,} bytes, in {path}")
        again = f" --backbone-path {shlex.quote(run.backbone_path)}" if run.backbone_path else ""
        lines += ["", "Classify pictures with it:", f"  qprompt predict {shlex.quote(str(path))} PICTURES{again}"]
    lines.append(f"The log is {folder / 'log.txt'}, the record {folder / 'metrics.json'}.")
    return lines
