"""The devices that QPrompt computes on: the CPU, and GPUs under PyTorch's name cuda, which are AMD's too (ROCm)."""

import torch

from qprompt.errors import UserError

# PyTorch has these devices too. Nothing was tried there, and float64, which K-Means needs, is missing on some.
OTHERS = {"mps": "Apple's GPU", "xpu": "Intel's GPU"}


def usable_devices() -> list[str]:
    """Return the names of the devices of this machine that QPrompt computes on."""
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def check_device(device: str | torch.device) -> str | torch.device:
    """Return `device`; UserError if it is not there, or of a kind that is not supported."""
    usable = ", ".join(usable_devices())
    kind = str(device).partition(":")[0]
    if kind in OTHERS:
        raise UserError(f"device {str(device)!r}, {OTHERS[kind]}, is not supported: type one of {usable}.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise UserError(f"device {str(device)!r} cannot be used ({reason}): type one of {usable}.") from None
    return device


def idle_gpu() -> str:
    """Return which GPU of this machine is of a kind that is not supported; "" if none is."""
    backends = {"mps": getattr(torch.backends, "mps", None), "xpu": getattr(torch, "xpu", None)}
    found = (kind for kind, backend in backends.items() if backend is not None and backend.is_available())
    return next((f"{OTHERS[kind]} ({kind})" for kind in found), "")


def check_precision(device: torch.device, precision: str, key: str) -> None:
    """Raise UserError if a GPU is too old for bf16. AMD's count as new enough, as PyTorch says of them.

    Args:
        device: of the run.
        precision: that the run asks for.
        key: of the config, for the message.
    """
    if precision != "bf16" or device.type != "cuda" or getattr(torch.version, "hip", None):
        return
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        raise UserError(
            f"{key} bf16 needs a GPU of compute capability 8.0 or newer; {torch.cuda.get_device_name(device)} has "
            f"{major}.{minor}: type {key} fp16, or amp or fp32 in its place."
        )
