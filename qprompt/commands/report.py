"""Tables, comparisons and figures of finished runs, from their metrics.json files.

Examples:
  qprompt report output/                                     the tables, in the terminal
  qprompt report output/ --format latex > table.tex          one format, to standard output
  qprompt report output/ --out report/                       all formats, and the figures
"""

import argparse
import sys
from pathlib import Path

from qprompt.errors import UserError
from qprompt.files import atomic_open


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``qprompt report``."""
    parser.add_argument("output", nargs="+", help="output folders of runs, or metrics.json files")
    parser.add_argument(
        "--format", choices=("text", "markdown", "latex", "csv"), default="text", help="what is printed"
    )
    parser.add_argument("--out", metavar="FOLDER", help="also write the report there in every format, with its figures")


def run(args: argparse.Namespace) -> int:
    """Print the tables; with --out write them and the figures."""
    from qprompt.report import render
    from qprompt.report.accuracy import accuracy_tables
    from qprompt.report.records import read_runs
    from qprompt.report.scores import pair

    runs, warnings = read_runs(args.output)
    scores, more = pair(runs)
    for warning in [*warnings, *more]:
        print(f"qprompt report: warning: {warning}", file=sys.stderr)
    tables = accuracy_tables(scores)
    formats = {"text": render.text, "markdown": render.markdown, "latex": render.latex, "csv": render.csv_text}
    colour = args.format == "text" and sys.stdout.isatty()
    print(render.text(tables, colour=True) if colour else formats[args.format](tables), end="")
    if args.out:
        folder = Path(args.out)
        names = {"report.txt": "text", "report.md": "markdown", "report.tex": "latex", "report.csv": "csv"}
        for name, kind in names.items():
            _write(folder / name, formats[kind](tables).encode("utf-8"))
        _write_figures(scores, folder)
        written = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file()))
        print(f"\nwritten to {folder}/: {written}", file=sys.stderr)
    return 0


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_open(path) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from None


def _write_figures(scores: list, folder: Path) -> None:
    from qprompt.report.figures import make_figures
    from qprompt.report.plotting import save

    try:
        figures = make_figures(scores)
    except UserError as error:
        print(f"qprompt report: warning: no figures: {error}", file=sys.stderr)
        return
    for name, (_, figure) in figures.items():
        save(figure, folder / name)
