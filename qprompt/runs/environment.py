"""What a result was measured with: versions of libraries, hardware, memory."""

import contextlib
import platform
import sys
from importlib import metadata
from typing import Any

import torch

from qprompt import __version__
from qprompt.io.cores import available_cores


def versions(engine: str) -> dict[str, str]:
    """Return the versions of everything that a result depends on."""
    found = {"qprompt": __version__, "python": platform.python_version(), "engine": engine}
    for name in ("torch", "torchvision", "numpy", "pillow", "clip-anytorch", "openai-clip", "clip"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def hardware(device: str) -> dict[str, Any]:
    """Return the CPU, its cores and threads, and the GPU if `device` is one."""
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "device": device,
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
        found |= {"cuda": torch.version.cuda, "hip": getattr(torch.version, "hip", None)}
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def decides_bits(device: torch.device) -> tuple[Any, ...]:
    """Return what the same program may compute other bits with: the processor, its threads, libraries and switches.

    Two results with equal values are equal, except where kernels add in any order.
    """
    if device.type != "cuda":
        return _cpu_name(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    backends = torch.backends
    built_for = torch.version.cuda, getattr(torch.version, "hip", None), backends.cudnn.version()
    gpu = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    tf32 = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    kernels = backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    attention = backends.cuda.flash_sdp_enabled(), backends.cuda.mem_efficient_sdp_enabled()
    return gpu, built_for, tf32, kernels, attention


def _cpu_name() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def peak_memory_bytes(device: str) -> dict[str, int]:
    """Return the peak resident memory of this process and, on a GPU, the peak that torch allocated there."""
    found = {}
    with contextlib.suppress(ImportError):  # Windows does not have this module
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
        found["host"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.startswith("cuda"):
        found["device"] = torch.cuda.max_memory_allocated(device)
    return found
