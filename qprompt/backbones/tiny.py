"""The small CLIP in this package, as a state dict of openai's CLIP.

It was pre-trained by scripts/pretrain_tiny_clip.py on the drawn world (docs/tiny_world.md). The file contains only the
token embeddings that the captions of this world use; the others are generated here.
"""

import hashlib
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from qprompt.backbones.clip_package import import_clip
from qprompt.errors import UserError

ASSET = "tiny_clip.safetensors"
SHA256 = "6de7015581cead1704159d4d6e335c5b09eb731dae3d7f1b3b6960dd705a78d6"


@lru_cache(maxsize=1)
def _asset() -> bytes:
    file = resources.files("qprompt") / "assets" / ASSET
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file} is missing: this installation is incomplete. Install the package again.") from None
    got = hashlib.sha256(data).hexdigest()
    if got != SHA256:
        raise UserError(f"{file} is damaged: its SHA-256 is {got}, expected {SHA256}. Install the package again.")
    return data


def tiny_state_dict() -> dict[str, Tensor]:
    """Return name -> float16 tensor, as openai's ``CLIP.state_dict()``; all sizes can be read from it.

    Token embeddings that pre-training never used are fixed pseudo-random values with the standard deviation of the
    trained ones, so that unknown words differ from each other.

    Raises:
        UserError: The file in the package is missing or damaged.
    """
    from safetensors.torch import load

    state = load(_asset())
    ids, rows = state.pop("token_embedding.ids"), state.pop("token_embedding.rows")
    vocabulary = len(import_clip().clip._tokenizer.encoder)
    table = _random_rows(vocabulary, rows.shape[1], spread=round(float(rows.double().std()), 4))
    table[ids.long()] = rows
    state["token_embedding.weight"] = table
    return state


def _random_rows(count: int, width: int, spread: float) -> Tensor:
    """Return (count, width) float16, uniform around 0 with standard deviation `spread`, the same on every machine."""
    # NumPy promises that raw PCG64 words never change
    words = np.random.PCG64(0).random_raw(count * width // 8 + 1).astype("<u8")
    values = words.view(np.uint8)[: count * width].reshape(count, width)
    step = np.float32(spread * 3**0.5 / 127.5)
    return torch.from_numpy((values.astype(np.float32) - np.float32(127.5)) * step).half()
