"""Figures of finished runs (PNG, PDF and SVG), from their metrics.json files.

Examples:
  qprompt figures output/ --out figures/
  qprompt figures output/ --out figures/ --only epochs
"""

import argparse
import logging
from pathlib import Path

from qprompt.errors import UserError, did_you_mean
from qprompt.io.logs import show_logs

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt figures``."""
    parser.add_argument("output", nargs="+", help="output folders of runs, or metrics.json files")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="output folder")
    parser.add_argument("--only", metavar="NAME", nargs="+", default=[], help="only these figures")


def run(args: argparse.Namespace) -> int:
    """Write the figures and print their names."""
    show_logs("stderr")
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
        logger.warning(warning)
    figures = make_figures(scores, args.only)
    for name in args.only or FIGURES:
        if name not in figures:
            logger.warning("no runs for the figure %s", name)
    for name, (caption, figure) in figures.items():
        try:
            paths = save(figure, Path(args.out, name))
        except OSError as error:
            raise UserError(f"cannot write to --out {args.out}: {error.strerror}.") from None
        print(f"{caption}: {', '.join(map(str, paths))}")
    return 0 if figures else 2
