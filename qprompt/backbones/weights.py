"""Read CLIP weights from a file without executing code in it, and download OpenAI's."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import torch
from tqdm import tqdm

from qprompt.errors import UserError
from qprompt.io.file_kinds import KINDS, UNPACK, kind_of
from qprompt.io.locks import hold
from qprompt.io.torch_files import read_torch_file

_PYTORCH = "save the state dict of the PyTorch model"
_KINDS = (
    (rb"\x89HDF", "a file of TensorFlow or Keras", _PYTORCH),
    (rb"GGUF", "a GGUF file", _PYTORCH),
    (rb"\x08[\x01-\x20][\x12:]", "an ONNX model", _PYTORCH),
    (rb"\x93NUMPY", "an array of NumPy", _PYTORCH),
)
_DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, NotImplementedError, EOFError)
CACHE = Path("~/.cache/clip")  # where OpenAI's package keeps its downloads
MIRROR = "QPROMPT_CLIP_MIRROR"  # environment variable: URL of a server with <SHA-256>/<file>, instead of OpenAI's


def read_content(path: Path) -> Any:
    """Return what a TorchScript archive, a file of ``torch.save`` or a safetensors file contains.

    Code in pickles is not executed (see `qprompt.io.torch_files`).

    Raises:
        UserError: the file is truncated or of another kind.
    """
    try:
        return _read(path)
    except (RuntimeError, ValueError, OSError, zipfile.BadZipFile, NotImplementedError) as error:
        if kind := _kind_of(path):
            raise UserError(f"{path} can't be read as CLIP weights: it is {kind}.") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} can't be read as CLIP weights; it may be truncated ({path.stat().st_size:,} bytes): {reason}"
        ) from error


def _kind_of(path: Path) -> str:
    """What a file is that is not one of weights; "" if it may be one that is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _DAMAGED_ZIP:
        with open(path, "rb") as file:
            head = file.read(1000)
        return "" if head.startswith(b"PK") else kind_of(head, (*_KINDS, *KINDS))
    if any(name.endswith((".pkl", ".py")) for name in names):
        return ""
    arrays = any(name.endswith(".npy") for name in names)
    return f"arrays of NumPy: {_PYTORCH}" if arrays else f"a zip archive: {UNPACK}"


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    if is_torchscript(path):
        with warnings.catch_warnings():
            # torch warns that TorchScript is deprecated, but OpenAI's files have this format.
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path), map_location="cpu").state_dict()
    return read_torch_file(path, map_location="cpu")


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a zip file with code of a model."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())


def is_openai_archive(path: Path) -> bool:
    """Return whether a file is a zip file with code of a model that does not call GELU: OpenAI's has QuickGELU."""
    try:
        if not is_torchscript(path):
            return False
        with zipfile.ZipFile(path) as archive:
            code = [info for info in archive.infolist() if info.filename.endswith(".py") and info.file_size < 1 << 24]
            return not any(b"torch.gelu" in archive.read(info) for info in code)
    except _DAMAGED_ZIP:
        return False


def sha256(path: Path) -> str:
    """Return the hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def openai_place(url: str) -> Path:
    """Return where the local copy of OpenAI's weights belongs."""
    return CACHE.expanduser() / url.split("/")[-1]


def openai_file(name: str, url: str) -> Path:
    """Return the path of OpenAI's weights, and download them if they are missing.

    Args:
        name: Name of the backbone, for messages.
        url: OpenAI's URL, whose last folder is the SHA-256.

    Raises:
        UserError: The local file has another SHA-256, or the download fails.
    """
    expected, file_name = url.split("/")[-2:]
    target = openai_place(url)
    if not target.exists():
        mirror = os.environ.get(MIRROR)
        _download(name, f"{mirror.rstrip('/')}/{expected}/{file_name}" if mirror else url, target, expected)
    elif (got := sha256(target)) != expected:
        raise UserError(
            f"{target} is not OpenAI's {name}: SHA-256 is {got[:12]}..., expected {expected[:12]}.... "
            f"Delete it to download it again, or set MODEL.BACKBONE.PATH to use these weights as they are."
        )
    return target


def _download(name: str, url: str, target: Path, expected: str) -> None:
    """Fetch `url` into a file next to `target`, resuming an earlier attempt; rename it once its SHA-256 is right.

    One of several processes downloads and the others wait.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with hold(target.with_name(f".{target.name}.lock"), wait=True):
        if target.exists():  # another process was first
            return
        print(f"Downloading {name} to {target}")
        try:
            with open(part, "ab") as file:
                _fetch(url, file)
                os.fsync(file.fileno())
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            kept = part.stat().st_size if part.exists() else 0
            if not kept:
                part.unlink(missing_ok=True)
            raise UserError(
                f"{name} could not be downloaded from {url} ({error}). {kept:,} bytes were received and kept; the same "
                f"command resumes there. Or download it on another machine and put it at {target}, give its path as "
                f"MODEL.BACKBONE.PATH, or set {MIRROR} to a server that has it."
            ) from error
        if (got := sha256(part)) != expected:
            part.unlink()
            raise UserError(
                f"the download of {name} from {url} has SHA-256 {got[:12]}..., expected {expected[:12]}...: "
                "nothing was kept. Try again."
            )
        os.replace(part, target)


def _fetch(url: str, file: BinaryIO) -> None:
    """Append the missing bytes of `url` to `file`."""
    done = file.tell()
    try:
        source = urllib.request.urlopen(urllib.request.Request(url, headers={"Range": f"bytes={done}-"}), timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # no bytes after those in the file: it is complete, or of another file
            raise
        return
    with source:
        if source.status != 206:  # the server ignores Range and sends the whole file
            file.truncate(0)
            done = 0
        left = int(source.headers.get("Content-Length") or 0)
        with tqdm(total=done + left or None, initial=done, unit="B", unit_scale=True, ncols=80) as progress:
            while chunk := source.read(1 << 20):
                file.write(chunk)
                left -= len(chunk)
                progress.update(len(chunk))
        file.flush()
        if left > 0:
            raise OSError(f"the connection ended {left:,} bytes too early")
