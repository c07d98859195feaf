"""Run a grid of trainers, data sets, shots, seeds and settings, in parallel.

  qprompt sweep configs/sweeps/quickstart.yaml
  qprompt sweep configs/sweeps/bits.yaml seeds=1-5 'datasets=[oxford_pets, dtd]' root=DATA --dry-run

Started again, it resumes: a finished run (its metrics.json has the same settings) is skipped, an unfinished one
continues from its newest checkpoint. Exit code 0: every run is finished; 1: some failed; 2: the spec or the command
line is wrong, and nothing was started; 130: interrupted. docs/sweeps.md explains the spec.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt sweep``."""
    # So that KEY=VALUE may come after --options too.
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
    add = parser.add_argument
    add("spec", metavar="SPEC.yaml", help="the spec; configs/sweeps/ contains some")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="replace a key of the spec, e.g. seeds=1-5")
    add("--jobs", type=int, metavar="N", help="processes in parallel (default: one per GPU, else one per core)")
    add("--gpus", metavar="0,1|none", help="GPUs to use (default: all visible ones)")
    add("--retry", action="store_true", help="run each failed run a second time, after all others")
    add("--dry-run", action="store_true", help="print the commands and run nothing")
    add(
        "--cluster",
        choices=("slurm", "local"),
        help="submit through submitit (pip install submitit): an array job with one element per training run and its "
        "evaluations, at most --jobs at a time; local: submitit's executor on this machine",
    )


def run(args: argparse.Namespace) -> int | None:
    """Run the sweep; return the exit code."""
    from qprompt.sweep.spec import read_spec

    spec = read_spec(args.spec, args.overrides)
    spec.check_names()

    from qprompt.sweep import run as sweep  # imports torch

    return sweep.run(args, spec)
