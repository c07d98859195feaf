"""Run examples/pictures_to_prompt.ipynb and store its outputs in it.

python tools/run_notebook.py
"""

import os
import tempfile
from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples/pictures_to_prompt.ipynb"


def main() -> None:
    os.environ.pop("MPLBACKEND", None)  # figures go into the notebook
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
