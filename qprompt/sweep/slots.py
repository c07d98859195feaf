"""Slots for parallel runs on this machine: one per GPU, or one per CPU core."""

import dataclasses
import os

from qprompt.errors import UserError


@dataclasses.dataclass(frozen=True)
class Slot:
    """Resources of one process.

    Attributes:
        gpu: Its GPU as CUDA_VISIBLE_DEVICES names it; None for no GPU.
        threads: Its share of the CPU cores.
    """

    gpu: str | None
    threads: int

    def environment(self) -> dict[str, str]:
        """Return environment variables for the process. A number of threads that the user has set is kept."""
        found = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads))}
        if self.gpu is not None:
            found["CUDA_VISIBLE_DEVICES"] = self.gpu
        return found


def local_slots(jobs: int | None = None, gpus: str | None = None) -> list[Slot]:
    """Return one slot per GPU, or one per core if there is no GPU.

    Args:
        jobs: Number of slots instead; GPUs are assigned in turn.
        gpus: A list such as ``0,2``; ``none``: the CPU only; None: every visible GPU.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs expects 1 or more, got {jobs}.")
    devices = visible_gpus() if gpus is None else [g for g in gpus.split(",") if g and g != "none"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = jobs or len(devices) or cores
    threads = max(1, cores // count)
    return [Slot(devices[i % len(devices)] if devices else None, threads) for i in range(count)]


def visible_gpus() -> list[str]:
    """Return the GPUs that torch can use, under their names in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[:count] if named else [str(i) for i in range(count)]
