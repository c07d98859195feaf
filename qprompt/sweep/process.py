"""A run in a separate process, forked from one that has already imported PyTorch.

Importing PyTorch can take longer than a run on the CPU. So on Linux multiprocessing's fork server imports it once, and
every run is a fork of that server, which has not touched CUDA and has no state of the sweep. On other systems a run is
a new interpreter.
"""

import contextlib
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# The server's socket is in a new temporary folder, and the path of a socket has at most 107 bytes.
_FORKS = sys.platform == "linux" and len(os.fsencode(tempfile.gettempdir())) < 70
_CONTEXT: Any = multiprocessing.get_context("forkserver" if _FORKS else "spawn")
# Slow imports that every run needs. The server skips names that cannot be imported.
_PRELOADED = ["torch", "torchvision", "torch.utils.tensorboard"]


def start(script: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> BaseProcess:
    """Start ``python script argv...`` as the leader of a new process group.

    Args:
        script: Path of the script.
        argv: Its arguments.
        environment: All its environment variables.
        log: File to which its output is appended.

    Returns:
        The process.
    """
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    process: BaseProcess = _CONTEXT.Process(target=_run, args=(script, list(argv), dict(environment), log))
    process.start()
    return process


def signal_group(process: BaseProcess, number: int) -> None:
    """Send a signal to a run and to the processes that it started (data loader workers)."""
    assert process.pid is not None
    if not hasattr(os, "killpg"):  # Windows has no groups; data loader workers end with their parent
        process.terminate()
        return
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        # Either all have ended, or the run was started just now and does not lead a group yet.
        if process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
    except PermissionError:
        pass


def _run(script: str, argv: list[str], environment: dict[str, str], log: Path) -> None:
    if hasattr(os, "setsid"):  # not on Windows
        os.setsid()
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(environment)

    import numpy
    import torch

    # Do what a new interpreter would do on import, and the fork server did for its own environment: set the number of
    # threads (MKL's, else OpenMP's), and take NumPy's first random state from the operating system.
    torch.set_num_threads(int(environment.get("MKL_NUM_THREADS") or environment["OMP_NUM_THREADS"]))
    numpy.random.seed()  # noqa: NPY002 (the global one is meant)
    sys.argv = [script, *argv]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    runpy.run_path(script, run_name="__main__")
