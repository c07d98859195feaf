"""Tables, comparisons and figures of finished runs, from their metrics.json files.

Examples:
  qprompt report output/                                     the tables, in the terminal
  qprompt report output/ --format latex > table.tex          another format, on standard output
  qprompt report output/ --out report/                       every format, one HTML page, and the figures
  qprompt report output/ --compare ZeroshotCLIP QCoOp        a test of the difference of two methods
"""

import argparse
import logging
import sys
import textwrap
from pathlib import Path
from typing import Any

from qprompt.errors import UserError
from qprompt.io.logs import show_logs

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt report``."""
    add = parser.add_argument
    add("output", nargs="+", help="output folders of runs, or metrics.json files")
    add(
        "--format",
        choices=("text", "markdown", "latex", "csv"),
        default="text",
        help="format of the output (default text)",
    )
    add(
        "--compare",
        nargs=2,
        metavar=("METHOD", "METHOD"),
        action="append",
        help="test the difference of two methods, named as in the tables (default: each QX and NoisyX against X)",
    )
    add(
        "--pairs-are",
        choices=("auto", "datasets", "runs"),
        default="auto",
        help="what counts as an independent pair in a comparison: a data set (or draw) averaged over seeds, or every "
        "run; auto: data sets if there are six or more, else runs without interval and p",
    )
    add(
        "--published",
        nargs="?",
        choices=("comparable", "any"),
        const="comparable",
        help="also print the paper's numbers beside the runs on the same data and backbone; any: beside any runs (to "
        "compare patterns; on other data it is not a reproduction). Default: only if there are comparable runs",
    )
    add(
        "--out", metavar="FOLDER", help="also write the report to this folder: every format, one HTML page, the figures"
    )


def run(args: argparse.Namespace) -> int:
    """Print the tables; with --out also write them and the figures."""
    show_logs("stderr")
    from qprompt.report import render
    from qprompt.report.accuracy import accuracy_tables
    from qprompt.report.compare import compare, comparison_table, default_pairs
    from qprompt.report.conclusion import conclusions
    from qprompt.report.output import write_report
    from qprompt.report.published import has_measured, published_tables
    from qprompt.report.records import leak_warnings, read_runs
    from qprompt.report.scores import pair

    runs, unread = read_runs(args.output)
    scores, contradictions = pair(runs)
    warnings = [*unread, *contradictions, *leak_warnings(runs)]
    for warning in warnings:
        logger.warning(warning)
    tables = accuracy_tables(scores)
    comparisons = compare(scores, args.compare or default_pairs(scores), args.pairs_are)
    if compared := comparison_table(comparisons):
        tables.append(compared)
    summary = conclusions(comparisons)
    published = published_tables(scores, anywhere=args.published == "any")
    shown = tables + [table for table in published if args.published or has_measured(table)]
    if args.format == "text":
        print(render.text(shown, colour=sys.stdout.isatty()), end="")
        print("".join(f"\n{textwrap.fill(paragraph, 100)}\n" for paragraph in summary), end="")
    else:
        print(render.FORMATS[args.format](shown), end="")
    if args.out:
        published = [table for table in published if args.published or has_measured(table)]
        write_report(Path(args.out), "report", tables, _figures(scores), published, runs, warnings, summary)
    return 0


def _figures(scores: list) -> dict[str, tuple[str, Any]]:
    from qprompt.report.figures import make_figures

    try:
        return make_figures(scores)
    except UserError as error:
        logger.warning("no figures: %s", error)
        return {}
