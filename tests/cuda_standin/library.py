"""The preloaded library, and the reasons why the stand-in cannot run here."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("guards.c")
# Both forms of these are in the source: PyTorch 2.4 has one, newer ones the other.
_EITHER = {"_ZN3c104cuda9SetDeviceEa", "_ZN3c104cuda9SetDeviceEab", "_ZN3c104cuda10set_deviceEa"}
_EITHER |= {"_ZN3c104cuda10set_deviceEab"}


def why_not() -> str:
    """Return why the stand-in cannot run with this PyTorch on this machine; empty if it can."""
    if sys.platform != "linux":
        return "the stand-in for CUDA preloads a library, which needs Linux"
    if torch.version.cuda is None:
        return "the stand-in for CUDA needs a PyTorch with CUDA (this one is built without)"
    if torch.cuda.is_available():
        return "there is a real GPU: run pytest -m gpu"
    if shutil.which("cc") is None:
        return "the stand-in for CUDA needs a C compiler"
    libraries = [
        ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"lib{n}.so")) for n in ("c10_cuda", "torch_cuda")
    ]
    names = set(re.findall(r"_ZN\w+", SOURCE.read_text())) - _EITHER
    missing = [name for name in sorted(names) if not any(hasattr(library, name) for library in libraries)]
    return f"PyTorch {torch.__version__} has other C++ names: {', '.join(missing)}" if missing else ""


def environment(folder: Path, sm: int = 90) -> dict[str, str]:
    """Return the environment variables of a process with the stand-in.

    Args:
        folder: for the compiled library.
        sm: compute capability: 80 for an A100, 90 for an H100.
    """
    library = folder / "libcuda_standin.so"
    if not library.exists():
        command = ["cc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True)
    path = os.pathsep.join([str(SOURCE.parent.parent), str(SOURCE.parents[2]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "LD_PRELOAD": str(library), "STANDIN_SM": str(sm), "PYTHONPATH": path}
