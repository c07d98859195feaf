"""Slots for parallel runs on this machine: one per GPU, or one per CPU core."""

import dataclasses
import os

from qprompt.errors import UserError
from qprompt.io.cores import available_cores


@dataclasses.dataclass(frozen=True)
class Slot:
    """Resources of one process.

    Attributes:
        gpu: Its GPU as CUDA_VISIBLE_DEVICES names it (on AMD's HIP_VISIBLE_DEVICES); empty for no GPU; None for any.
        threads: Its share of the CPU cores.
    """

    gpu: str | None
    threads: int

    def environment(self) -> dict[str, str]:
        """Return environment variables for the process. A number of threads that the user has set is kept."""
        found = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads))}
        if self.gpu is not None:
            found |= dict.fromkeys(_variables(), self.gpu)
        return found


def local_slots(jobs: int | None = None, gpus: str | None = None) -> list[Slot]:
    """Return one slot per GPU, or one per core if there is no GPU.

    Args:
        jobs: Number of slots instead; GPUs are assigned in turn.
        gpus: A list such as ``0,2``, counted among the visible GPUs as torch counts them; ``none``: the CPU only;
            None: every visible GPU.

    Raises:
        UserError: A number is not that of a visible GPU.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs expects 1 or more, got {jobs}.")
    devices = visible_gpus() if gpus is None else chosen_gpus(gpus)
    cores = available_cores()
    count = jobs or len(devices) or cores
    threads = max(1, cores // count)
    no_gpu = "" if gpus == "none" else None
    return [Slot(devices[i % len(devices)] if devices else no_gpu, threads) for i in range(count)]


def chosen_gpus(gpus: str) -> list[str]:
    """Return the GPUs that `gpus` lists by number, under their names in CUDA_VISIBLE_DEVICES."""
    words = [word.strip() for word in gpus.split(",") if word.strip()]
    if words == ["none"]:
        return []
    visible = visible_gpus()
    # Names such as GPU-8932f937 are CUDA's own; what is allocated may be listed by them.
    visible += [w for w in words if not w.isdecimal() and not _allocation()]
    number = {
        **{str(i): name for i, name in enumerate(visible)},
        **{name: name for name in visible if not name.isdecimal()},
    }
    wrong = [word for word in words if word not in number]
    if wrong or not words:
        there = f"visible GPUs are {', '.join(visible)}: type --gpus {','.join(map(str, range(len(visible))))}"
        raise UserError(f"--gpus {gpus!r}: {there if visible else 'there is no visible GPU: type --gpus none'}.")
    return [number[word] for word in words]


def visible_gpus() -> list[str]:
    """Return the GPUs that torch can use, under their names in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in _allocation().split(",") if name.strip()]
    return named[:count] if named else [str(i) for i in range(count)]


def _variables() -> tuple[str, ...]:
    """Return the environment variables that choose GPUs; on AMD's the first one goes before CUDA's."""
    import torch

    amd = ("HIP_VISIBLE_DEVICES",) if getattr(torch.version, "hip", None) else ()
    return (*amd, "CUDA_VISIBLE_DEVICES")


def _allocation() -> str:
    """Return the GPUs that this process was given by name; "" if they are numbered from 0."""
    variables = _variables()
    if len(variables) > 1 and "ROCR_VISIBLE_DEVICES" in os.environ:
        variables = variables[:1]  # a driver's choice, within which HIP numbers from 0
    return next((os.environ[name] for name in variables if name in os.environ), "")
