"""The files of a run's record: ``config.json`` from its start, ``metrics.json`` once it has finished.

They are the only interface between runs and what reads them (sweeps, reports): nothing scrapes logs.
"""

from pathlib import Path
from typing import Any

from qprompt.errors import UserError
from qprompt.io import files

SCHEMA = 1
METRICS = "metrics.json"
CONFIG = "config.json"


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    try:
        data = files.read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): delete it if it is a leftover.") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} does not hold a JSON object: delete it if it is a leftover.")
    return data
