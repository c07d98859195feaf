"""The memory of a run: what text encoding may keep for the backward pass (TEXT_MEMORY_MB), and how to need less."""

from typing import Any

import torch

from qprompt.data.decode_cache import MB
from qprompt.runs.choices import choose_once, chosen


def text_memory_bytes(cfg: Any, device: torch.device) -> int:
    """Return the bound in bytes; 0 is none.

    With TEXT_MEMORY_MB -1 it is half of the GPU memory that is free now. That depends on other programs, so a resumed
    run takes the bound that it had. With DETERMINISTIC it is half of the GPU's memory, free or not.
    """
    if cfg.TEXT_MEMORY_MB >= 0 or device.type != "cuda":
        return max(0, cfg.TEXT_MEMORY_MB) * MB

    def choose() -> int:
        index = torch.cuda.current_device() if device.index is None else device.index  # torch 2.4 needs it
        free, total = torch.cuda.mem_get_info(index)
        return (total if cfg.DETERMINISTIC else free) // 2

    return choose_once(
        cfg.OUTPUT_DIR, "text_memory_bytes", choose, lambda value: type(value) is int and value > 0, cfg.RESUME
    )


def less_memory(cfg: Any, trains: bool = True) -> str:
    """Return what to type for a run that needs less memory of the device.

    Args:
        cfg: of the run.
        trains: whether it is more than an evaluation, on which TEXT_MEMORY_MB has no effect.
    """
    words = []
    if cfg.CUDA_GRAPH and trains:  # a graph keeps its memory, and needs text that is encoded at once
        words += ["CUDA_GRAPH False"]
    elif trains:
        allowed = cfg.TEXT_MEMORY_MB
        if allowed <= 0:
            allowed = (chosen(cfg.OUTPUT_DIR, "text_memory_bytes") or 1000 * MB) // MB
        words += [f"TEXT_MEMORY_MB {max(1, allowed // 2)} (the same results)"]
    for part in ("TEST", "TRAIN_X") if trains else ("TEST",):
        key, size = f"DATALOADER.{part}.BATCH_SIZE", cfg.DATALOADER[part].BATCH_SIZE
        words += [f"{key} {size // 2}"] if size > 1 else []
    words = words or ["USE_CUDA False"]
    return f"type {', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else f"type {words[0]}"
