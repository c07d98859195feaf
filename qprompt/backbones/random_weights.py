"""Random CLIP weights in the shapes of OpenAI's models, for tests, benchmarks and dry runs."""

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qprompt.backbones.clip_package import import_clip
from qprompt.errors import UserError, did_you_mean
from qprompt.io.files import write_json


@dataclass(frozen=True)
class ClipShape:
    """Arguments of `clip.model.CLIP`."""

    embed_dim: int
    image_resolution: int
    vision_layers: int | tuple[int, int, int, int]
    vision_width: int
    vision_patch_size: int | None
    transformer_width: int
    transformer_heads: int
    transformer_layers: int
    context_length: int = 77
    vocab_size: int = 49408


SHAPES = {
    "RN50": ClipShape(1024, 224, (3, 4, 6, 3), 64, None, 512, 8, 12),
    "RN101": ClipShape(512, 224, (3, 4, 23, 3), 64, None, 512, 8, 12),
    "ViT-B/32": ClipShape(512, 224, 12, 768, 32, 512, 8, 12),
    "ViT-B/16": ClipShape(512, 224, 12, 768, 16, 512, 8, 12),
    "ViT-L/14": ClipShape(768, 224, 24, 1024, 14, 768, 12, 12),
    "ViT-L/14@336px": ClipShape(768, 336, 24, 1024, 14, 768, 12, 12),
}

# For tests. Width, depth and heads differ between the branches, so that code which confuses them fails.
TEST_SHAPE = ClipShape(48, 32, 4, 128, 8, 64, 1, 3)


def random_state_dict(shape: str | ClipShape, seed: int = 0) -> dict[str, Tensor]:
    """Return a random state dict: fp32, exactly representable in fp16, the same on every machine.

    Every bias and norm differs from its neutral value, so that code which ignores one fails. The global random state
    does not change.

    Args:
        shape: A shape, or a name in `SHAPES`.
        seed: Another seed gives other weights.
    """
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise UserError(f"no shape {shape!r}.{did_you_mean(shape, SHAPES)} Known: {', '.join(SHAPES)}.")
        shape = SHAPES[shape]
    with torch.device("meta") if hasattr(torch, "compile") else contextlib.nullcontext():
        shapes = import_clip().model.CLIP(**asdict(shape)).state_dict()
    generator = np.random.PCG64(seed)
    weights = {name: _draw(generator, name, tuple(value.shape)) for name, value in shapes.items()}
    weights["logit_scale"].fill_(4.6052)  # CLIP's: exp(4.6052) = 100
    return {name: value.half().float() if value.is_floating_point() else value for name, value in weights.items()}


def open_clip_config(shape: ClipShape) -> dict[str, Any]:
    """Return the content of open_clip_config.json for openai's CLIP of that shape: it names the heads and QuickGELU."""
    vision = {"image_size": shape.image_resolution, "layers": shape.vision_layers, "width": shape.vision_width}
    text = {"context_length": shape.context_length, "vocab_size": shape.vocab_size, "width": shape.transformer_width}
    text |= {"heads": shape.transformer_heads, "layers": shape.transformer_layers}
    if shape.vision_patch_size is not None:
        vision["patch_size"] = shape.vision_patch_size
    model = {"embed_dim": shape.embed_dim, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    return {"model_cfg": model}


def write_clip(path: Path, state: dict[str, Tensor], shape: ClipShape) -> Path:
    """Write weights and, into the same folder, the config that says what they do not. Return `path`."""
    torch.save(state, path)
    write_json(path.with_name("open_clip_config.json"), open_clip_config(shape))
    return path


def _draw(generator: np.random.PCG64, name: str, shape: tuple[int, ...]) -> Tensor:
    """Draw uniform values with the standard deviation that such a weight has at the start of training."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    count = int(np.prod(shape))
    # NumPy promises that raw PCG64 words never change
    words = generator.random_raw(count // 4 + 1).astype("<u8").view(np.uint16)[:count]
    values = torch.from_numpy(words.astype(np.float32) / 32768 - 1).view(shape) * 3**0.5  # variance 1
    if name in ("token_embedding.weight", "positional_embedding"):
        return values * (0.02 if name.startswith("token") else 0.01)
    if len(shape) > 1:
        return values * (count // shape[0]) ** -0.5
    neutral = 1.0 if name.endswith(("running_var", "weight")) else 0.0
    return neutral + 0.1 * values
