"""Image features with learned prompts over an unmodified CLIP: a plain path, and a fast one with equal results."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qprompt.backbones import ClipModel
from qprompt.errors import UserError
from qprompt.prompted_clip.gpu_operations import attention_kernels, layer_norm
from qprompt.prompted_clip.text import use_reference
from qprompt.prompted_clip.transformer_layer import attention, transformer_layer

ROWS = 2048  # per pass on a CPU: 32 images of ViT-B/16 in one pass took 7 to 15% longer (benchmarks/products.py)


def encode_image(
    clip_model: ClipModel, image: Tensor, prompts: Tensor | None = None, deep: Sequence[Tensor] = ()
) -> Tensor:
    """Compute image features, not normalized.

    Args:
        clip_model: The unmodified model; its image width is V.
        image: (B, 3, H, W) pixels.
        prompts: (n, V) vectors that follow the patch tokens, without position embeddings (MaPLe, VPT).
        deep: (n, V) vectors for layers 2, 3, ... that replace these vectors before the layer.

    Returns:
        (B, E)

    Raises:
        UserError: Prompts for a ResNet, which has no tokens to append them to.
    """
    visual = clip_model.visual
    image = image.type(clip_model.dtype)
    if not hasattr(visual, "transformer"):
        if prompts is not None:
            raise UserError("image prompts need a ViT backbone; this one is a ResNet. CoOp, CoCoOp and QCoOp fit it.")
        return visual(image)
    plain = use_reference()
    at_once = None if plain else images_at_once(clip_model)
    if at_once and len(image) > at_once:
        return torch.cat([encode_image(clip_model, part, prompts, deep) for part in image.split(at_once)])
    with attention_kernels(image.device):
        return _encode_pixels(visual, image, prompts, deep, plain)


def _encode_pixels(visual: Any, image: Tensor, prompts: Tensor | None, deep: Sequence[Tensor], plain: bool) -> Tensor:
    norm = (lambda module, x: module(x)) if plain else layer_norm
    x = _tokens(visual, image)
    if prompts is not None:
        x = torch.cat([x, prompts.type(x.dtype).expand(x.shape[0], -1, -1)], dim=1)
    x = norm(visual.ln_pre, x)
    if deep:
        deep = torch.stack(list(deep)).type(x.dtype).unbind()
    resblocks = list(visual.transformer.resblocks)
    for number, resblock in enumerate(resblocks):
        if 0 < number <= len(deep):
            vectors = deep[number - 1].expand(x.shape[0], -1, -1)
            x = torch.cat([x[:, : x.shape[1] - vectors.shape[1]], vectors], dim=1)
        if plain:
            x = resblock(x.permute(1, 0, 2)).permute(1, 0, 2)  # resblocks take (T, B, V)
        else:  # after the last attention, only the class token is needed
            x = transformer_layer(resblock, x, attention, select=slice(1) if number == len(resblocks) - 1 else None)
    x = norm(visual.ln_post, x[:, 0])
    return x @ visual.proj


def images_at_once(clip_model: ClipModel) -> int | None:
    """Return how many images to encode in one pass; None: all of them.

    On a CPU their hidden units should fit into its cache. There is no limit on a GPU, nor while a graph for any batch
    size is compiled or exported.
    """
    position = clip_model.visual.positional_embedding
    if position.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    return max(1, ROWS // len(position))


def _tokens(visual: Any, image: Tensor) -> Tensor:
    """Class token and patch tokens with their position embeddings: (B, 1 + grid**2, V)."""
    x = visual.conv1(image).flatten(2).permute(0, 2, 1)  # (B, grid**2, V)
    class_token = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
    return torch.cat([class_token, x], dim=1) + visual.positional_embedding.to(x.dtype)
