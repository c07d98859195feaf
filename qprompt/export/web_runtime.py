"""The files of onnxruntime-web, which runs ONNX models in a browser: from its npm package."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from qprompt.errors import UserError

PACKAGE = "onnxruntime-web@1.30.0"  # the version that tests run
ARCHIVE = PACKAGE.replace("@", "-") + ".tgz"
_NAMES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_FOLDERS = (".", "dist", "package/dist", "node_modules/onnxruntime-web/dist")
_HOW = f"Type 'npm pack {PACKAGE}' where npm and the internet are, then add --runtime {ARCHIVE}."
_SECONDS = 300


class Runtime(NamedTuple):
    """The JavaScript module and the WebAssembly file."""

    script: bytes
    wasm: bytes


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise UserError unless `folder` is free: not there, or empty."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--web {folder}: it exists and is not an empty folder. Name a new one.")


def find_runtime(given: str = "") -> Runtime:
    """Return the files of onnxruntime-web.

    Args:
        given: The file of ``npm pack``, or a folder with its content; by default ``node_modules`` in the working
            directory, otherwise the package is fetched by npm.

    Raises:
        UserError: They are not there, or npm cannot fetch them; the message says what to type.
    """
    if given:
        found = _of_archive(Path(given)) if Path(given).is_file() else _of_folder(Path(given))
        if found is None:
            raise UserError(f"--runtime {given} does not hold {' and '.join(_NAMES)} of onnxruntime-web. {_HOW}")
        return found
    return _of_folder(Path.cwd() / "node_modules/onnxruntime-web") or _fetched()


def _of_folder(folder: Path) -> Runtime | None:
    for inner in _FOLDERS:
        files = [folder / inner / name for name in _NAMES]
        if all(file.is_file() for file in files):
            return Runtime(*(file.read_bytes() for file in files))
    return None


def _of_archive(path: Path) -> Runtime | None:
    try:
        with tarfile.open(path) as archive:
            files = [archive.extractfile(f"package/dist/{name}") for name in _NAMES]
            return Runtime(*(file.read() for file in files if file is not None))
    except (KeyError, TypeError, tarfile.TarError, OSError, EOFError):
        return None


def _fetched() -> Runtime:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"--web needs the files of onnxruntime-web, and npm is not installed. {_HOW}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", PACKAGE, "--pack-destination", folder]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS)
            problem = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it failed"])[0]
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        found = None if problem else _of_archive(Path(folder) / ARCHIVE)
    if found is None:
        raise UserError(f"npm could not fetch {PACKAGE}: {problem or 'it wrote another file'}. {_HOW}")
    return found
