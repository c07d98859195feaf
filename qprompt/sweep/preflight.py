"""Checks before the first run: the data sets and the weights that the runs will read."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from qprompt.backbones import missing_weights
from qprompt.data import checks
from qprompt.data.items import Split
from qprompt.data.layouts import LAYOUTS, Layout
from qprompt.errors import UserError
from qprompt.sweep.plan import Run


def layouts_of(runs: Sequence[Run]) -> dict[str, Layout]:
    """Return the layouts of the data sets that runs read, by the names of their configs."""
    return {str(run.choice.dataset): LAYOUTS[run.settings.config["DATASET.NAME"]] for run in runs}


def check_data(root: Path, layout: Layout) -> tuple[list[str], Split | None]:
    """Check the files of one data set, without decoding images.

    Returns:
        Its errors, each with the way to fix it; and its split, None if it cannot be read.
    """
    findings, split = checks.check_layout(layout, root)
    errors = [
        f"{'' if layout.name in f.message else f'{layout.name}: '}{f.message}\n    -> {f.advice}"
        for f in findings
        if f.level == "error"
    ]
    return errors, None if errors else split


def check_weights(name: str, path: str) -> list[str]:
    """Check that the weights of a backbone are on this machine and can be loaded.

    Args:
        name: The backbone.
        path: A file with its weights; empty: OpenAI's.
    """
    from qprompt.backbones import load_clip

    if not path and (place := missing_weights(name)):
        return [
            f"{name}: OpenAI's weights are not in {place}.\n    -> To download them, add to the command: --download\n"
            "    -> or, to use a file with them: --backbone-path FILE"
        ]
    try:
        load_clip(name, path)
    except UserError as error:
        return [f"{name}: {error}\n    -> To use another file: --backbone-path FILE"]
    return []


def check_disk(output: Path, needed: int) -> list[str]:
    """Check that the output folder's disk has room."""
    place = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free >= needed:
        return []
    return [
        f"{output}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free.\n    -> --output ANOTHER_FOLDER"
    ]
