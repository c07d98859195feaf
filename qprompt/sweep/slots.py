"""Where runs can go side by side on this machine: one process a GPU, or the CPU's cores shared out."""

import dataclasses
import os

from qprompt.errors import UserError


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for one process: its GPU (as CUDA_VISIBLE_DEVICES names it, None: no GPU) and its share of cores."""

    gpu: str | None
    threads: int

    def environment(self) -> dict[str, str]:
        """Variables for the process. A thread count that the user set already stays; MKL follows OpenMP's."""
        found = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads))}
        if self.gpu is not None:
            found["CUDA_VISIBLE_DEVICES"] = self.gpu
        return found


def local_slots(jobs: int | None = None, gpus: str | None = None) -> list[Slot]:
    """One slot a GPU, or one a core where there is no GPU; with `jobs`, that many, dealt out over the GPUs in turn.

    `gpus` is a list such as ``0,2``; ``none`` keeps to the CPU; None takes every visible GPU.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs is 1 or more, got {jobs}.")
    devices = visible_gpus() if gpus is None else [g for g in gpus.split(",") if g and g != "none"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = jobs or len(devices) or cores
    threads = max(1, cores // count)
    return [Slot(devices[i % len(devices)] if devices else None, threads) for i in range(count)]


def visible_gpus() -> list[str]:
    """The GPUs that torch can use, under the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[:count] if named else [str(i) for i in range(count)]
