"""Pictures in the forms that people have, as batches of tensors."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qprompt.data.images import read_image, view
from qprompt.data.preprocessing import Preprocessing
from qprompt.errors import UserError

_EXPECTED = (
    "expected PIL images, paths, uint8 arrays (H, W, 3) or (B, H, W, 3), or preprocessed float tensors (B, 3, H, W)"
)


def batches(pictures: Any, preprocess: Preprocessing, batch_size: int) -> Iterator[Tensor]:
    """Yield preprocessed pictures (B, 3, H, W) with B up to `batch_size`, reading them one batch at a time.

    Args:
        pictures: One or any number of PIL images, paths, uint8 arrays (H, W, 3), and tensors (3, H, W) that are
            preprocessed already; an array (B, H, W, 3) or a tensor (B, 3, H, W).
        preprocess: For all but tensors.
        batch_size: The largest B.

    Raises:
        UserError: A picture is of another kind, or cannot be read (`ImageError`).
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1.")
    if isinstance(pictures, Tensor) and pictures.dim() == 4:
        check_preprocessed(pictures, preprocess)
        yield from pictures.split(batch_size) if len(pictures) else ()
        return
    batch: list[Tensor] = []
    for number, picture in enumerate(_each(pictures), 1):
        batch.append(_tensor(picture, preprocess, number))
        if len(batch) == batch_size:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)


def check_preprocessed(pictures: Tensor, preprocess: Preprocessing) -> None:
    """Raise UserError unless `pictures` has the shape (..., 3, H, W) and type of preprocessed ones."""
    if not pictures.is_floating_point():
        kind = str(pictures.dtype).removeprefix("torch.")
        raise UserError(f"the tensor holds {kind}, so it is not preprocessed: apply preprocess to PIL images.")
    if tuple(pictures.shape[-3:]) != (3, *preprocess.size):
        expected = ", ".join(map(str, (3, *preprocess.size)))
        raise UserError(f"the tensor is {tuple(pictures.shape)}, expected (B, {expected}): apply preprocess first.")


def _each(pictures: Any) -> Iterable[Any]:
    one = (str, bytes, os.PathLike, Image.Image)
    if isinstance(pictures, one) or (isinstance(pictures, (np.ndarray, Tensor)) and pictures.ndim == 3):
        return [pictures]
    if isinstance(pictures, (np.ndarray, Tensor)) and pictures.ndim not in (1, 4):
        raise UserError(f"the pictures are an array of shape {tuple(pictures.shape)}: {_EXPECTED}.")
    if isinstance(pictures, Iterable):
        return pictures
    raise UserError(f"the pictures are a {type(pictures).__name__}: {_EXPECTED}.")


def _tensor(picture: Any, preprocess: Preprocessing, number: int) -> Tensor:
    if isinstance(picture, Tensor):
        check_preprocessed(picture[None], preprocess) if picture.dim() == 3 else _refuse(picture, number)
        return picture
    if isinstance(picture, (str, os.PathLike)):
        return preprocess(read_image(picture))
    if isinstance(picture, Image.Image):
        return preprocess(view(picture, f"picture {number}"))
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        _refuse(picture, number)
    if picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
        _refuse(picture, number)
    return preprocess(Image.fromarray(picture))


def _refuse(picture: Any, number: int) -> None:
    kind = type(picture).__name__
    if isinstance(picture, (np.ndarray, Tensor)):
        kind = f"{str(picture.dtype).removeprefix('torch.')} {kind} of shape {tuple(picture.shape)}"
    raise UserError(f"picture {number} is a {kind}: {_EXPECTED}.")
