"""Checks of the paths of prompt files that need no PyTorch."""

import os

from qprompt.errors import UserError
from qprompt.prompt_files.hub import is_hub_address


def check_prompt_file(path: str | os.PathLike[str]) -> None:
    """Raise UserError if a prompt file is neither there nor named by a hub address."""
    if not os.path.isfile(path) and not is_hub_address(str(path)):
        raise UserError(f"no prompt file {str(path)!r}. Training writes it: OUTPUT_DIR/prompt_learner/prompt.qprompt.")
