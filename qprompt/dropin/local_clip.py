"""``--clip FILE`` and MODEL.BACKBONE.PATH: give the CLIP loader of any checkout a local file."""

import atexit
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from qprompt.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent.parent


def use_local_clip(path: str) -> str:
    """Make the CLIP packages that were imported load the weights in `path` under every name.

    The file is checked as for our own trainers, and may have any format that those read.

    Returns:
        A line that says what was done.

    Raises:
        UserError: the file is not a CLIP model, the script has no loader like that of OpenAI's package, or that would
            compute something else with these weights.
    """
    loaders = [module for module in list(sys.modules.values()) if _is_loader(module)]
    if not loaders:
        raise UserError(
            f"{path} was given as CLIP's weights, but the script imports no package with a loader like OpenAI's "
            "(clip.clip with _MODELS and _download)."
        )
    file = _as_state_dict(os.path.expanduser(path))
    for module in loaders:
        module._download = lambda *args, **options: file  # type: ignore[attr-defined]
    return f"CLIP's weights are read from {path}"


def _is_loader(module: Any) -> bool:
    if not isinstance(module, ModuleType) or getattr(module, "__name__", "").startswith(("qprompt", "torch")):
        return False
    return callable(vars(module).get("_download")) and isinstance(vars(module).get("_MODELS"), dict)


def _as_state_dict(path: str) -> str:
    """Return a temporary file with the checked weights as ``torch.save`` writes them, which every loader reads.

    In a process of its own: in this one, `clip` is the package of the checkout, whose models differ from OpenAI's.
    """
    descriptor, file = tempfile.mkstemp(suffix=".pt", prefix="qprompt-clip-")
    os.close(descriptor)
    atexit.register(Path(file).unlink, missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "qprompt.dropin.local_clip", os.path.abspath(path), file],
        cwd=tempfile.gettempdir(),
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        text=True,
        capture_output=True,
    )
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or [f"{path} could not be read"])[-1])
    return file


def convert(path: str, target: str) -> None:
    """Check the CLIP weights in `path`, and save them with OpenAI's names to `target`.

    Raises:
        UserError: it is not a CLIP model, or one that OpenAI's code computes otherwise.
    """
    import torch
    from torch import nn

    from qprompt.backbones import load_clip
    from qprompt.backbones.load import load_state_dict

    model = load_clip("", path)
    width = model.transformer.width
    if any(isinstance(module, nn.GELU) for module in model.modules()):
        raise UserError(f"{path} was trained with GELU; the loader of this checkout computes QuickGELU.")
    if any(block.attn.num_heads != width // 64 for block in model.transformer.resblocks):
        raise UserError(f"{path} has other attention heads than the width {width} / 64 of this checkout's loader.")
    state = load_state_dict("", path)
    names = model.state_dict()
    same = all(key in state and state[key].shape == value.shape for key, value in names.items())
    torch.save(state if same else names, target)


if __name__ == "__main__":
    try:
        convert(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
