"""Figures of finished runs (PNG, PDF and SVG), from their records.

Examples:
  qprompt figures output/ --out figures/
  qprompt figures output/ --out figures/ --only epochs
"""

import argparse
import sys
from pathlib import Path

from qprompt.errors import UserError, did_you_mean


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``qprompt figures``."""
    parser.add_argument("output", nargs="+", help="output folders of runs, or metrics.json files")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="where the files go")
    parser.add_argument("--only", metavar="NAME", nargs="+", default=[], help="these figures only")


def run(args: argparse.Namespace) -> int:
    """Write the figures and name them."""
    from qprompt.report.figures import FIGURES, make_figures
    from qprompt.report.plotting import save
    from qprompt.report.records import read_runs
    from qprompt.report.scores import pair

    for name in args.only:
        if name not in FIGURES:
            raise UserError(f"no figure {name!r}.{did_you_mean(name, FIGURES)} There are: {', '.join(FIGURES)}.")
    runs, warnings = read_runs(args.output)
    scores, more = pair(runs)
    for warning in [*warnings, *more]:
        print(f"qprompt figures: warning: {warning}", file=sys.stderr)
    figures = make_figures(scores, args.only)
    for name in args.only or FIGURES:
        if name not in figures:
            print(f"qprompt figures: {name}: no runs for it", file=sys.stderr)
    for name, (caption, figure) in figures.items():
        try:
            paths = save(figure, Path(args.out, name))
        except OSError as error:
            raise UserError(f"cannot write to --out {args.out}: {error.strerror}.") from None
        print(f"{caption}: {', '.join(map(str, paths))}")
    return 0 if figures else 2
