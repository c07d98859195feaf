"""The readers of files that may be damaged or come from others, with valid files and ways to damage them."""

from fuzzing import data_files, model_files, run_files
from fuzzing.target import Target


def targets() -> dict[str, Target]:
    """Return name -> reader, with what it is given."""
    return {**model_files.targets(), **data_files.targets(), **run_files.targets()}
