"""Run the paper's base-to-new experiments and their controls, and say which of its claims hold.

Examples:
  qprompt reproduce /data --dry-run                 the plan: runs, time, disk, and what is missing
  qprompt reproduce /data                           everything: 11 data sets, 13 methods, seeds 1 to 3
  qprompt reproduce /data --hours 8                 the most informative runs that fit 8 hours (an estimate)
  qprompt reproduce /data --datasets dtd eurosat --seeds 1

ROOT is the data root (docs/datasets.md). The methods: zero-shot CLIP, CoOp, QCoOp, MaPLe and QMaPLe with ViT-B/16, and
as controls CoOp and QCoOp with the same 50 epochs, QCoOp with 2 and 4 bits and quantized after training, and CoOp with
Gaussian noise. Data and weights are checked before anything starts.

Started again, the command resumes: finished runs are skipped, also those of `qprompt sweep configs/sweeps/paper/...`.
The report is OUTPUT/reproduction/reproduction.html (and .txt, .md, .tex, .csv): the paper's tables beside yours, and
for each claim "holds", "does not hold" or "not decided", with the difference, its interval and p.

Exit code 0: done (--dry-run: nothing is missing); 1: runs failed (--dry-run: something is missing); 2: nothing was
started, and the message says what to type; 130: interrupted.
"""

import argparse
from pathlib import Path
from typing import Any

from qprompt.errors import UserError, did_you_mean

QUICK_HOURS = 8.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt reproduce``."""
    add = parser.add_argument
    add("root", metavar="ROOT", help="data root with the folders of the data sets")
    add("--quick", action="store_true", help=f"only what fits --hours (default then: {QUICK_HOURS:g})")
    add("--hours", type=float, metavar="H", help="only what fits H hours of all GPUs, by an estimate; implies --quick")
    add("--dry-run", action="store_true", help="print the plan and start nothing")
    add("--output", default="output", metavar="DIR", help="output folder (default: output)")
    add("--datasets", nargs="+", metavar="NAME", help="data sets, e.g. dtd eurosat (default: all 11)")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N", help="seeds (default: 1 2 3)")
    add("--backbone-path", default="", metavar="FILE", help="CLIP weights (default: OpenAI's ViT-B/16)")
    add("--download", action="store_true", help="download OpenAI's weights (335 MB) if they are not there")
    add("--epochs", type=int, metavar="N", help="epochs of every training run: for a trial, not a reproduction")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a config key of every run: also for trials")
    add("--jobs", type=int, metavar="N", help="processes in parallel (default: one per GPU, else one per core)")
    add("--gpus", metavar="0,1|none", help="GPUs to use (default: all visible ones)")
    add("--retry", action="store_true", help="run each failed run a second time, after all others")


def run(args: argparse.Namespace) -> int:
    """Plan, check, run and report; return the exit code."""
    if not Path(args.root).expanduser().is_dir():
        raise UserError(f"{args.root!r} is not a folder: expected the data root, which holds the data sets' folders.")

    from qprompt.backbones import load_state_dict
    from qprompt.sweep import arms, reproduce
    from qprompt.sweep.run import run_here
    from qprompt.sweep.slots import local_slots

    settings = _check_arguments(args, arms.dataset_names())
    spec = arms.main_spec(root=args.root, output=args.output)
    by_arm = arms.plan_arms(args.root, args.output, args.datasets, args.seeds, settings)
    if args.download and not args.dry_run and not args.backbone_path:
        load_state_dict("ViT-B/16")
    print("Checking data and weights ...", flush=True)
    slots = local_slots(args.jobs, args.gpus)
    plan = reproduce.make_plan(by_arm, Path(args.root), Path(args.output), args.hours, slots)
    print("\n".join(plan.lines()), flush=True)
    if args.dry_run:
        print("".join(f"\nMISSING: {problem}\n" for problem in plan.problems), end="")
        return 1 if plan.problems else 0
    if plan.problems:
        raise UserError("nothing was started.\n\n" + "\n\n".join(plan.problems))
    code = run_here(spec, plan.runs, args.jobs, args.gpus, args.retry)
    if code != 130:
        _report(args, by_arm, settings)
    return code


def _check_arguments(args: argparse.Namespace, known: list[str]) -> dict[str, Any]:
    """Complete the arguments; return the config keys for every run."""
    args.root = str(Path(args.root).expanduser())
    for name in args.datasets or ():
        if name not in known:
            raise UserError(f"no data set {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}.")
    args.datasets = list(dict.fromkeys(args.datasets or known))
    for what, value in (("--hours", args.hours), ("--epochs", args.epochs), ("--seeds", min(args.seeds))):
        if value is not None and value <= 0:
            raise UserError(f"{what} expects a number above 0, got {value}.")
    if args.quick and args.hours is None:
        args.hours = QUICK_HOURS
    settings: dict[str, Any] = {}
    for word in args.set:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--set expects KEY=VALUE, got {word!r}.")
        settings[key] = value
    if args.backbone_path:
        settings["MODEL.BACKBONE.PATH"] = args.backbone_path
    if args.epochs:
        settings["OPTIM.MAX_EPOCH"] = args.epochs
    return settings


def _report(args: argparse.Namespace, by_arm: dict[str, list[Any]], settings: dict[str, Any]) -> None:
    """Print and write the report on all finished runs, those of earlier calls included."""
    from qprompt.report.reproduction import write_reproduction

    finished = {name: [run for run in runs if run.finished() is not None] for name, runs in by_arm.items()}
    files = {name: [Path(run.folder) / "metrics.json" for run in runs] for name, runs in finished.items() if runs}
    if not files:
        print("No run has finished: there is nothing to report.")
        return
    notes = []
    if args.backbone_path:
        notes.append(f"weights from {args.backbone_path}: comparable with the paper if they are OpenAI's ViT-B/16")
    if changed := [f"{key}={value}" for key, value in settings.items() if key != "MODEL.BACKBONE.PATH"]:
        notes.append(f"not a reproduction: all runs have {', '.join(changed)}")
    print("\n" + write_reproduction(files, Path(args.output) / "reproduction", notes), end="")
