"""The files of a report: its tables in every format, one HTML page, its figures."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qprompt.errors import UserError
from qprompt.io.files import atomic_open
from qprompt.report import render
from qprompt.report.page import page
from qprompt.report.plotting import save
from qprompt.report.records import Run
from qprompt.report.tables import Table

logger = logging.getLogger(__name__)
_ENDINGS = {"txt": "text", "md": "markdown", "tex": "latex", "csv": "csv"}


def write_report(
    folder: Path,
    stem: str,
    tables: Sequence[Table],
    figures: Mapping[str, tuple[str, Any]],
    published: Sequence[Table],
    runs: Sequence[Run],
    warnings: Sequence[str],
    conclusions: Sequence[str] = (),
) -> None:
    """Write `stem`.{txt,md,tex,csv,html} and the figures into `folder`, each completely or not at all.

    Args:
        folder: The output folder.
        stem: Name of the files without the ending.
        tables: The measured tables.
        figures: Name -> (caption, matplotlib figure or the bytes of a PNG file).
        published: The tables of the paper.
        runs: All runs, for the table at the end of the page.
        warnings: For the top of the page.
        conclusions: What the comparisons mean, for the top of the page.

    Raises:
        UserError: `folder` cannot be written to.
    """
    shown = [*tables, *published]
    contents = {f"{stem}.{e}": render.FORMATS[kind](shown).encode("utf-8") for e, kind in _ENDINGS.items()}
    pictures: dict[str, tuple[str, bytes]] = {}
    written: list[str] = []
    try:
        for name, (caption, figure) in figures.items():
            if isinstance(figure, bytes):
                contents[f"{name}.png"] = figure
                pictures[name] = (caption, figure)
            else:
                written += [path.name for path in save(figure, folder / name)]
                pictures[name] = (caption, (folder / f"{name}.svg").read_bytes())
        contents[f"{stem}.html"] = page(tables, pictures, published, runs, warnings, conclusions).encode("utf-8")
        for name, content in contents.items():
            with atomic_open(folder / name) as file:
                file.write(content)
    except OSError as error:
        raise UserError(f"cannot write to --out {folder}: {error.strerror}.") from None
    logger.info("Written to %s/: %s", folder, ", ".join(sorted([*contents, *written])))
