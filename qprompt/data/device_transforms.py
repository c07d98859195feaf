"""Image transforms on the device: a worker only decodes and crops; the device resizes, flips and normalizes a batch.

The result and the state of the random generators equal those of torchvision on Pillow images, bit for bit. All images
of a batch are processed at once; their pixels are concatenated, so that no image is padded.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from qprompt.data.resizing import FILTERS, Axis, columns_first, weighted_sum
from qprompt.errors import UserError

_MAX_PIXELS = 1_000_000  # larger images are resized by the worker: a batch of them would fill the memory
_GEOMETRY = ((T.RandomResizedCrop,), (T.Resize,), (T.Resize, T.CenterCrop))
_FLIP = ((), (T.RandomHorizontalFlip,))
_NORMALIZE = ((), (T.Normalize,))
SUPPORTED = [(*g, *f, T.ToTensor, *n) for g, f, n in itertools.product(_GEOMETRY, _FLIP, _NORMALIZE)]


@dataclasses.dataclass(frozen=True)
class CroppedImage:
    """An image that is still to be resized.

    Attributes:
        pixels: (lines, length, 3) uint8, all pixels that the result depends on. Lines are the rows of the image, or
            its columns if it is transposed.
        axes: The axis along a line, which is resized first, and the axis across the lines.
        transposed: Whether `pixels` is transposed.
        flip: Whether to flip the result horizontally.
    """

    pixels: np.ndarray
    axes: tuple[Axis, Axis]
    transposed: bool
    flip: bool


class CropTransform:
    """The worker's part of a torchvision transform: draws the same random numbers and crops the image.

    Args:
        transform: A `Compose` that Dassl builds.

    Attributes:
        transforms: Its steps.

    Raises:
        UserError: The transform has an unsupported step.
    """

    def __init__(self, transform: Any):
        self.transforms = steps = list(getattr(transform, "transforms", [transform]))
        by_type = {type(step): step for step in steps}
        self.resize, self.crop = steps[0], by_type.get(T.CenterCrop)
        self.flip, self.normalize = by_type.get(T.RandomHorizontalFlip), by_type.get(T.Normalize)
        if tuple(map(type, steps)) not in SUPPORTED or not self._size_is_fixed():
            known = {kind for kinds in SUPPORTED for kind in kinds}
            raise UserError(
                "INPUT.AUGMENT device supports resizing, center crop, random_resized_crop, random_flip and normalize, "
                "bilinear or bicubic; this transform is "
                f"{', '.join(str(s) if type(s) in known else type(s).__name__ for s in steps)}: type INPUT.AUGMENT cpu."
            )
        self.filter = FILTERS[self.resize.interpolation]
        self.size = tuple((self.crop or self.resize).size)  # height, width of the result

    def _size_is_fixed(self) -> bool:
        if self.resize.interpolation not in FILTERS or getattr(self.resize, "max_size", None):
            return False
        size = self.resize.size
        return isinstance(size, int) and size >= max(self.crop.size) if self.crop else len(np.atleast_1d(size)) == 2

    def __call__(self, image: Image.Image) -> CroppedImage:
        width, height = image.size
        top = left = 0
        if isinstance(self.resize, T.RandomResizedCrop):
            crop = self.resize
            top, left, height, width = crop.get_params(image, crop.scale, crop.ratio)
        flip = self.flip is not None and bool(torch.rand(1) < self.flip.p)
        output = self._resized(height, width)
        rows, bottom = self._axis(height, output[0], self.size[0])
        columns, right = self._axis(width, output[1], self.size[1])
        if (bottom - rows[3]) * (right - columns[3]) > _MAX_PIXELS:
            whole = F.resize(image.crop((left, top, left + width, top + height)), output, self.resize.interpolation)
            pixels = np.asarray(whole.crop((columns[2], rows[2], columns[2] + self.size[1], rows[2] + self.size[0])))
            columns, rows = ((side, side, 0, 0) for side in self.size[::-1])  # no further resizing
            return CroppedImage(pixels, (columns, rows), False, flip)
        pixels = np.asarray(image.crop((left + columns[3], top + rows[3], left + right, top + bottom)))
        if columns_first(height, width, output):
            return CroppedImage(pixels.transpose(1, 0, 2), (rows, columns), True, flip)
        return CroppedImage(pixels, (columns, rows), False, flip)

    def _resized(self, height: int, width: int) -> tuple[int, ...]:
        """Height and width after resizing, rounded as torchvision does if the size of the shorter side is given."""
        if self.crop is None:
            return self.size
        if width <= height:
            return int(self.resize.size * height / width), self.resize.size
        return self.resize.size, int(self.resize.size * width / height)

    def _axis(self, length: int, output: int, count: int) -> tuple[Axis, int]:
        """The axis whose middle `count` outputs are used, and the end of the input that they depend on."""
        first = round((output - count) / 2)
        start, stop = self.filter.needed(length, output, first, count)
        return (length, output, first, start), stop


class ImageBatch:
    """A batch of cropped images; `to` computes the transformed images."""

    def __init__(self, images: Sequence[CroppedImage], transform: CropTransform):
        shapes = [image.pixels.shape[:2] for image in images]
        self.tensors = {
            "pixels": torch.from_numpy(np.concatenate([image.pixels.reshape(-1, 3) for image in images])),  # (N, 3)
            "shapes": torch.tensor(shapes),  # (B, 2)
            "axes": torch.tensor([image.axes for image in images]),  # (B, 2, 4)
            "transposed": torch.tensor([image.transposed for image in images]),
            "flip": torch.tensor([image.flip for image in images]),
        }
        if transform.normalize is not None:
            self.tensors["mean"] = torch.as_tensor(transform.normalize.mean, dtype=torch.float32)
            self.tensors["std"] = torch.as_tensor(transform.normalize.std, dtype=torch.float32)
        self.size, self.filter = transform.size, transform.filter
        # Computed on the CPU, because reading them from the device would wait for it.
        self.n_lines = sum(lines for lines, _ in shapes)
        self.taps = [self.filter.taps(max(image.axes[i][0] / image.axes[i][1] for image in images)) for i in (0, 1)]

    def __len__(self) -> int:
        return len(self.tensors["flip"])

    def pin_memory(self) -> "ImageBatch":
        """Pin all tensors; called by a DataLoader with pin_memory=True."""
        self.tensors = {name: tensor.pin_memory() for name, tensor in self.tensors.items()}
        return self

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tensor:
        """Transform the images on `device`.

        Args:
            device: Where to compute.
            non_blocking: Whether the copies to the device are asynchronous; nothing else waits for the device.

        Returns:
            (B, 3, H, W) fp32 on `device`.
        """
        t = {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in self.tensors.items()}
        side = max(self.size)
        along, along_weights = self.filter.neighbours(t["axes"][:, 0], side, self.taps[0])
        across, across_weights = self.filter.neighbours(t["axes"][:, 1], side, self.taps[1])
        lines, lengths = t["shapes"].unbind(1)
        # The image of each line.
        image = torch.arange(len(self), device=device).repeat_interleave(lines, output_size=self.n_lines)
        first_line, first_pixel = lines.cumsum(0) - lines, (lines * lengths).cumsum(0) - lines * lengths
        line = torch.arange(self.n_lines, device=device) - first_line[image]
        at = (first_pixel[image] + line * lengths[image])[:, None] + along[image]
        pixels = t["pixels"].T.contiguous()
        narrow = weighted_sum(pixels, at, (weight[image] for weight in along_weights))  # (3, lines, side)
        result = weighted_sum(narrow, first_line[:, None] + across, across_weights[..., None])  # (3, B, side, side)
        result = torch.where(t["transposed"][:, None, None], result.transpose(-2, -1), result)
        result = result[..., : self.size[0], : self.size[1]].transpose(0, 1)  # (B, 3, H, W)
        result = torch.where(t["flip"][:, None, None, None], result.flip(-1), result).contiguous().float()
        result.div_(torch.full((), 255.0, device=device))  # with a Python number CUDA would multiply by the reciprocal
        if "mean" in t:
            result.sub_(t["mean"][:, None, None]).div_(t["std"][:, None, None])
        return result


def transform_on_device_(loader: DataLoader) -> None:
    """Change `loader` in place: "img" becomes an `ImageBatch`.

    Raises:
        UserError: The transform is not supported, or an item has several images.
    """
    data: Any = loader.dataset
    check_one_view(data)
    data.transform = CropTransform(data.transform)
    loader.collate_fn = functools.partial(_collate, data.transform)


def check_one_view(data: Any) -> None:
    """Raise UserError if an item of a data set has several images."""
    if getattr(data, "k_tfm", 1) > 1 or getattr(data, "return_img0", False):
        raise UserError(
            "INPUT.AUGMENT device supports one view per image (no DATALOADER.K_TRANSFORMS, no RETURN_IMG0): "
            "type INPUT.AUGMENT cpu."
        )


def _collate(transform: CropTransform, items: list[dict[str, Any]]) -> dict[str, Any]:
    rest = default_collate([{key: value for key, value in item.items() if key != "img"} for item in items])
    return {"img": ImageBatch([item["img"] for item in items], transform), **rest}
