"""PyTorch's switches that decide how a GPU computes: TF32, cuDNN's search for algorithms, deterministic kernels."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch

from qprompt.errors import UserError

log = logging.getLogger(__name__)
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_REPEATABLE = (":4096:8", ":16:8")  # the values with which cuBLAS repeats its results


@contextlib.contextmanager
def arithmetic(cfg: Any) -> Iterator[dict[str, Any]]:
    """Compute as TF32, CUDNN_BENCHMARK and DETERMINISTIC say within the block; PyTorch is as before after it.

    Yields:
        What is in effect, for the record of the run.

    Raises:
        UserError: CUBLAS_WORKSPACE_CONFIG is set to something that is not deterministic.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get(_WORKSPACE)
    if cfg.DETERMINISTIC and workspace not in (None, *_REPEATABLE):
        raise UserError(
            f"--deterministic needs {_WORKSPACE}={_REPEATABLE[0]} (or {_REPEATABLE[1]}); it is {workspace!r}: "
            f"type 'unset {_WORKSPACE}'."
        )
    try:
        if cfg.TF32 != "default":
            matmul.allow_tf32 = cudnn.allow_tf32 = cfg.TF32 == "always"
        if torch.cuda.is_available() and cfg.USE_CUDA:
            cudnn.benchmark = cfg.CUDNN_BENCHMARK and not cfg.DETERMINISTIC
        if cfg.DETERMINISTIC:
            log.info("Deterministic: kernels that repeat their bits, slower on a GPU; codebooks are fitted on the CPU")
            os.environ.setdefault(_WORKSPACE, _REPEATABLE[0])
            cudnn.deterministic = True
            torch.use_deterministic_algorithms(True)
        yield in_effect()
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)


def in_effect() -> dict[str, Any]:
    """Return the switches as they are; those of a GPU are left out where there is none."""
    found: dict[str, Any] = {"deterministic": torch.are_deterministic_algorithms_enabled()}
    if torch.cuda.is_available():
        found["tf32_matmul"] = torch.backends.cuda.matmul.allow_tf32
        found["tf32_convolution"] = torch.backends.cudnn.allow_tf32
        found["cudnn_benchmark"] = torch.backends.cudnn.benchmark
    return found
