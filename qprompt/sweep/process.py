"""A run in a process of its own, started from one that has imported PyTorch already.

Importing takes longer than many a run on the CPU. So on Linux multiprocessing's fork server imports once, and every
run is a fork of it: CUDA is not touched before the fork, and nothing of the sweep is in it. Elsewhere a run is a new
interpreter.
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

# The server's socket lies in a folder of its own there, and a socket's path has at most 107 bytes.
_FORKS = sys.platform == "linux" and len(os.fsencode(tempfile.gettempdir())) < 70
_CONTEXT: Any = multiprocessing.get_context("forkserver" if _FORKS else "spawn")
# What every run imports and takes long. A name that is not there is passed over.
_PRELOADED = ["torch", "torchvision", "torch.utils.tensorboard"]


def start(script: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> BaseProcess:
    """``python script argv...`` with this environment, its output appended to `log`; leads a process group."""
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    process: BaseProcess = _CONTEXT.Process(target=_run, args=(script, list(argv), dict(environment), log))
    process.start()
    return process


def signal_group(process: BaseProcess, number: int) -> None:
    """Send a signal to the run and to what it started (data loader workers)."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        # Either all are gone, or it was started this moment and leads no group yet.
        if process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
    except PermissionError:
        pass


def _run(script: str, argv: list[str], environment: dict[str, str], log: Path) -> None:
    os.setsid()
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(environment)

    import numpy
    import torch

    # What the fork server did at its import, an interpreter of its own would do now: ask MKL, which asks OpenMP, for
    # the number of threads, and take NumPy's first random state from the operating system.
    torch.set_num_threads(int(environment.get("MKL_NUM_THREADS") or environment["OMP_NUM_THREADS"]))
    numpy.random.seed()  # noqa: NPY002 (the global one is meant)
    sys.argv = [script, *argv]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    runpy.run_path(script, run_name="__main__")
