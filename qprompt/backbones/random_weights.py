"""CLIP weights drawn at random in the true shapes of OpenAI's models: for tests, benchmarks and dry runs."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from qprompt.backbones.clip_package import import_clip
from qprompt.errors import UserError, did_you_mean


@dataclass(frozen=True)
class ClipShape:
    """The constructor arguments of `clip.model.CLIP`."""

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


def random_state_dict(shape: str | ClipShape, seed: int = 0) -> dict[str, Tensor]:
    """A random state dict of `shape` (a name in `SHAPES`), the same for the same seed; fp32, fp16-representable.

    Every bias and norm differs from its neutral value, so that code which forgets one is found out.
    The global random state is left as it was.
    """
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise UserError(f"no shape {shape!r}.{did_you_mean(shape, SHAPES)} Known: {', '.join(SHAPES)}.")
        shape = SHAPES[shape]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = import_clip().model.CLIP(**asdict(shape)).state_dict()
        for name, value in weights.items():
            if value.ndim == 1 and value.is_floating_point() and not name.endswith("running_var"):
                value.add_(torch.randn_like(value) * 0.1)
    weights["logit_scale"].fill_(4.6052)  # CLIP's own: exp(4.6052) = 100
    return {name: value.half().float() if value.is_floating_point() else value for name, value in weights.items()}
