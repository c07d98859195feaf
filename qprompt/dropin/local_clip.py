"""``--clip FILE`` and MODEL.BACKBONE.PATH: give the CLIP loader of any checkout a local file."""

import atexit
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from qprompt.errors import UserError


def use_local_clip(path: str) -> str:
    """Make the CLIP packages that were imported load the weights in `path` under every name.

    The file is checked as for our own trainers, and may have any format that those read.

    Returns:
        A line that says what was done.

    Raises:
        UserError: the file is not a CLIP model, or the script has no loader like that of OpenAI's package.
    """
    loaders = [module for module in list(sys.modules.values()) if _is_loader(module)]
    if not loaders:
        raise UserError(
            f"{path} was given as CLIP's weights, but the script imports no package with a loader like OpenAI's "
            "(clip.clip with _MODELS and _download)."
        )
    file = _as_state_dict(path)
    for module in loaders:
        module._download = lambda *args, **options: file  # type: ignore[attr-defined]
    return f"CLIP's weights are read from {path}"


def _is_loader(module: Any) -> bool:
    if not isinstance(module, ModuleType) or getattr(module, "__name__", "").startswith(("qprompt", "torch")):
        return False
    return callable(vars(module).get("_download")) and isinstance(vars(module).get("_MODELS"), dict)


def _as_state_dict(path: str) -> str:
    """Return a temporary file with the checked weights as ``torch.save`` writes them, which every loader reads."""
    import torch

    from qprompt.backbones import load_clip
    from qprompt.backbones.convert import is_slip
    from qprompt.backbones.load import load_state_dict
    from qprompt.io.random_state import random_state_kept

    path = os.path.expanduser(path)
    with random_state_kept():  # a run with the file draws what a run without it draws
        model = load_clip("", path)
    state = load_state_dict("", path)
    if is_slip(state):
        raise UserError(f"{path} holds SLIP's weights; the loader of this checkout expects OpenAI's names.")
    if state.keys() < model.state_dict().keys():
        state = {**model.state_dict(), **state}
    descriptor, file = tempfile.mkstemp(suffix=".pt", prefix="qprompt-clip-")
    os.close(descriptor)
    atexit.register(Path(file).unlink, missing_ok=True)
    torch.save(state, file)
    return file
