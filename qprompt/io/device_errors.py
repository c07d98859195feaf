"""Errors of a GPU as one line that says what to type. PyTorch is not imported: an error of it is known by its words."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator

from qprompt.errors import UserError

_NO_MEMORY = re.compile(
    r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|DefaultCPUAllocator: (can't|not enough)",
)
_NO_KERNEL = re.compile(r"no kernel image is available|invalid device function|not compiled with .* for this GPU")
_NOT_REPEATABLE = re.compile(r"^(\S+) does not have a deterministic implementation")
_NO_HALF = re.compile(r"\"?(\w+)\"? not implemented for '(Half|BFloat16)'")


@contextlib.contextmanager
def device_errors_named(less_memory: Callable[[], str], other_precision: str = "") -> Iterator[None]:
    """Raise UserError for errors that PyTorch raises for lack of memory or of kernels; others pass.

    Args:
        less_memory: returns what to type for less memory.
        other_precision: what to type where the device cannot compute in a precision.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        message = one_line(str(error), less_memory, other_precision)
        if message is None:
            raise
        raise UserError(message) from None


def one_line(text: str, less_memory: Callable[[], str], other_precision: str = "") -> str | None:
    """Return the message of `device_errors_named` for the text of an error; None for an error of another kind."""
    if _NO_MEMORY.search(text):
        where = "of the host" if "DefaultCPUAllocator" in text else "of the GPU"
        wanted = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", text)
        return f"the memory {where} is full{f' (tried to get {wanted[1]} more)' if wanted else ''}: {less_memory()}."
    if _NO_KERNEL.search(text):
        return (
            f"{_pytorch()} has no kernels for this GPU: install one that has (pytorch.org/get-started lists them), or "
            "compute on the CPU: type USE_CUDA False, or --device cpu."
        )
    if found := _NOT_REPEATABLE.search(text):
        return f"{found[1]} has no kernel that repeats its bits on this device: leave out --deterministic."
    if (found := _NO_HALF.search(text)) and other_precision:
        kind = {"Half": "fp16", "BFloat16": "bf16"}[found[2]]
        return f"{_pytorch()} cannot compute {found[1]} in {kind} on this device: {other_precision}."
    return None


def _pytorch() -> str:
    """Name the installed PyTorch and the GPUs that it was built for."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "the installed PyTorch"
    with contextlib.suppress(RuntimeError, AssertionError):
        built = ", ".join(torch.cuda.get_arch_list())
        return f"PyTorch {torch.__version__}{f' (built for {built})' if built else ''}"
    return f"PyTorch {torch.__version__}"
