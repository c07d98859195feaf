"""Train or evaluate a prompt learner: the command line of CoOp and MaPLe (`python train.py --help`)."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

try:
    from qprompt.training.program import main
except ModuleNotFoundError as error:
    found = HERE / ".venv/bin/activate"
    how = f"source {found}" if found.is_file() else f"pip install -e {HERE}"
    sys.exit(f"train.py: the package {error.name!r} is not installed in this Python: type '{how}'.")

if __name__ == "__main__":
    sys.exit(main(project=HERE))
