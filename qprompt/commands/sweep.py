"""Run a grid of trainers, data sets, shots, seeds and settings, side by side.

  qprompt sweep configs/sweeps/quickstart.yaml
  qprompt sweep configs/sweeps/bits.yaml seeds=1-5 'datasets=[oxford_pets, dtd]' root=DATA --dry-run

Started again, it goes on where it was: a finished run (its metrics.json has the same settings) is skipped, an
unfinished one is taken up. Exit code 0: every run is finished; 1: some failed; 2: a mistake in the spec or on the
command line, nothing was started; 130: interrupted. docs/sweeps.md explains the spec.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Lets KEY=VALUE stand behind --options too.
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign,assignment]
    add = parser.add_argument
    add("spec", metavar="SPEC.yaml", help="the spec; configs/sweeps/ holds the ready ones")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="replace a key of the spec, e.g. seeds=1-5")
    add("--jobs", type=int, metavar="N", help="processes side by side (default: one a GPU, else one a core)")
    add("--gpus", metavar="0,1|none", help="GPUs to use (default: all that are visible)")
    add("--retry", action="store_true", help="run what failed a second time, after everything else")
    add("--dry-run", action="store_true", help="print the commands and run nothing")
    add(
        "--cluster",
        choices=("slurm", "local"),
        help="submit through submitit (pip install submitit): an array job, one element for each training run and its "
        "evaluations, at most --jobs at a time; local: submitit's own executor on this machine",
    )


def run(args: argparse.Namespace) -> int | None:
    from qprompt.sweep import run as sweep

    return sweep.run(args)
