"""Prompt files on the Hugging Face Hub: ``hf://USER/NAME[@REVISION][/FILE]``."""

import re
from pathlib import Path
from types import ModuleType

from qprompt.errors import UserError

FILE = "prompt.qprompt"
_ADDRESS = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<file>.+))?")


def import_hub() -> ModuleType:
    """Return the `huggingface_hub` package; UserError if it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            "the Hugging Face Hub needs huggingface_hub, which is not installed: pip install huggingface_hub"
        ) from None
    return huggingface_hub


def is_hub_address(path: str) -> bool:
    """Return whether a path is an address on the Hub."""
    return path.startswith("hf://")


def downloaded(address: str) -> Path:
    """Return the local copy of a prompt file on the Hub, which the library keeps in its cache.

    Args:
        address: ``hf://USER/NAME``, with ``@REVISION`` for a branch, tag or commit, and ``/FILE`` for a file of another
            name than prompt.qprompt.

    Raises:
        UserError: huggingface_hub is not installed, or the file cannot be downloaded.
    """
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise UserError(f"{address} is not an address on the Hub, expected hf://USER/NAME[@REVISION][/FILE].")
    hub = import_hub()
    try:
        return Path(hub.hf_hub_download(found["repo"], found["file"] or FILE, revision=found["revision"]))
    except Exception as error:  # of the library, of its HTTP client, of the disk
        raise UserError(f"{address} could not be downloaded: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Return what an error of the Hub says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines)[:300] or type(error).__name__
    if any(code in said for code in ("401", "403")):
        said += " (for a private repository or to write, type 'hf auth login' first)"
    return said
