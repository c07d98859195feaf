"""Views: images that a worker has only decoded and cropped; the device resizes, flips and normalizes a whole batch.

The result is that of torchvision on Pillow images, bit for bit, and so is the state of the random generators. All
images of a batch are done at once: they lie one behind the other, so that none is padded.
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

_MOST = 1_000_000  # pixels of a view: of larger ones a batch would fill memory, here and on the device
_GEOMETRY = ((T.RandomResizedCrop,), (T.Resize,), (T.Resize, T.CenterCrop))
_FLIP = ((), (T.RandomHorizontalFlip,))
_NORMALIZE = ((), (T.Normalize,))
COVERED = [(*g, *f, T.ToTensor, *n) for g, f, n in itertools.product(_GEOMETRY, _FLIP, _NORMALIZE)]


@dataclasses.dataclass(frozen=True)
class View:
    """One image: `pixels` (lines, length, 3), uint8, are all that the result depends on.

    axes: of a line, which is resized first, and across the lines. Lines are the rows of the image, or its columns where
    it is `turned`.
    """

    pixels: np.ndarray
    axes: tuple[Axis, Axis]
    turned: bool
    flip: bool


class Draw:
    """In place of a torchvision transform: draws what it draws, in its order, and cuts the image to what it reads.

    transform: a `Compose` that Dassl builds. UserError for one with a step that is not covered.
    """

    def __init__(self, transform: Any):
        steps = list(getattr(transform, "transforms", [transform]))
        named = {type(step): step for step in steps}
        self.resize, self.crop = steps[0], named.get(T.CenterCrop)
        self.flip, self.normalize = named.get(T.RandomHorizontalFlip), named.get(T.Normalize)
        if tuple(map(type, steps)) not in COVERED or not self._size_is_fixed():
            known = {kind for kinds in COVERED for kind in kinds}
            raise UserError(
                "INPUT.AUGMENT device covers resizing, center crop, random_resized_crop, random_flip and normalize, "
                "bilinear or bicubic; the transform here is "
                f"{', '.join(str(s) if type(s) in known else type(s).__name__ for s in steps)}: type INPUT.AUGMENT cpu."
            )
        self.filter = FILTERS[self.resize.interpolation]
        self.size = tuple((self.crop or self.resize).size)  # height, width of the result

    def _size_is_fixed(self) -> bool:
        if self.resize.interpolation not in FILTERS or getattr(self.resize, "max_size", None):
            return False
        size = self.resize.size
        return isinstance(size, int) and size >= max(self.crop.size) if self.crop else len(np.atleast_1d(size)) == 2

    def __call__(self, image: Image.Image) -> View:
        width, height = image.size
        top = left = 0
        if isinstance(self.resize, T.RandomResizedCrop):
            draw = self.resize
            top, left, height, width = draw.get_params(image, draw.scale, draw.ratio)  # type: ignore[arg-type]
        flip = self.flip is not None and bool(torch.rand(1) < self.flip.p)
        output = self._resized(height, width)
        rows, bottom = self._axis(height, output[0], self.size[0])
        columns, right = self._axis(width, output[1], self.size[1])
        if (bottom - rows[3]) * (right - columns[3]) > _MOST:
            whole = F.resize(image.crop((left, top, left + width, top + height)), output, self.resize.interpolation)
            pixels = np.asarray(whole.crop((columns[2], rows[2], columns[2] + self.size[1], rows[2] + self.size[0])))
            columns, rows = ((side, side, 0, 0) for side in self.size[::-1])  # to its own size: as it is
            return View(pixels, (columns, rows), False, flip)
        pixels = np.asarray(image.crop((left + columns[3], top + rows[3], left + right, top + bottom)))
        if columns_first(height, width, output):
            return View(pixels.transpose(1, 0, 2), (rows, columns), True, flip)
        return View(pixels, (columns, rows), False, flip)

    def _resized(self, height: int, width: int) -> tuple[int, ...]:
        """Height and width after resizing, rounded as torchvision does where the shorter side is given."""
        if self.crop is None:
            return self.size
        if width <= height:
            return int(self.resize.size * height / width), self.resize.size
        return self.resize.size, int(self.resize.size * width / height)

    def _axis(self, length: int, output: int, count: int) -> tuple[Axis, int]:
        """The axis whose middle `count` outputs are kept, and where what they depend on ends."""
        first = round((output - count) / 2)
        start, stop = self.filter.needed(length, output, first, count)
        return (length, output, first, start), stop


class Views:
    """A batch of views. ``to(device)`` gives what their transform would have given: (B, 3, H, W) in fp32, there."""

    def __init__(self, views: Sequence[View], draw: Draw):
        shapes = [view.pixels.shape[:2] for view in views]
        self.tensors = {
            "pixels": torch.from_numpy(np.concatenate([view.pixels.reshape(-1, 3) for view in views])),  # (N, 3)
            "shapes": torch.tensor(shapes),  # (B, 2)
            "axes": torch.tensor([view.axes for view in views]),  # (B, 2, 4)
            "turned": torch.tensor([view.turned for view in views]),
            "flip": torch.tensor([view.flip for view in views]),
        }
        if draw.normalize is not None:
            self.tensors["mean"] = torch.as_tensor(draw.normalize.mean, dtype=torch.float32)
            self.tensors["std"] = torch.as_tensor(draw.normalize.std, dtype=torch.float32)
        self.size, self.filter = draw.size, draw.filter
        # Numbers that the device knows too, but to ask it is to wait for it.
        self.n_lines = sum(lines for lines, _ in shapes)
        self.taps = [self.filter.taps(max(view.axes[i][0] / view.axes[i][1] for view in views)) for i in (0, 1)]

    def __len__(self) -> int:
        return len(self.tensors["flip"])

    def pin_memory(self) -> "Views":
        """What a loader that pins calls."""
        self.tensors = {name: tensor.pin_memory() for name, tensor in self.tensors.items()}
        return self

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tensor:
        """Everything that was put off. Nothing in it waits for `device` but, without `non_blocking`, the copies."""
        t = {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in self.tensors.items()}
        side = max(self.size)
        along, along_weights = self.filter.neighbours(t["axes"][:, 0], side, self.taps[0])
        across, across_weights = self.filter.neighbours(t["axes"][:, 1], side, self.taps[1])
        lines, lengths = t["shapes"].unbind(1)
        image = torch.arange(len(self), device=device).repeat_interleave(lines, output_size=self.n_lines)  # of a line
        first_line, first_pixel = lines.cumsum(0) - lines, (lines * lengths).cumsum(0) - lines * lengths
        line = torch.arange(self.n_lines, device=device) - first_line[image]
        at = (first_pixel[image] + line * lengths[image])[:, None] + along[image]
        pixels = t["pixels"].T.contiguous()
        narrow = weighted_sum(pixels, at, (weight[image] for weight in along_weights))  # (3, lines, side)
        result = weighted_sum(narrow, first_line[:, None] + across, across_weights[..., None])  # (3, B, side, side)
        result = torch.where(t["turned"][:, None, None], result.transpose(-2, -1), result)
        result = result[..., : self.size[0], : self.size[1]].transpose(0, 1)  # (B, 3, H, W)
        result = torch.where(t["flip"][:, None, None, None], result.flip(-1), result).contiguous().float()
        result.div_(torch.full((), 255.0, device=device))  # by a plain number CUDA multiplies with the reciprocal
        if "mean" in t:
            result.sub_(t["mean"][:, None, None]).div_(t["std"][:, None, None])
        return result


def deliver_views_(loader: DataLoader) -> None:
    """Have `loader` give `Views` as "img" from now on. UserError where its transform is not covered."""
    data: Any = loader.dataset
    if getattr(data, "k_tfm", 1) > 1 or getattr(data, "return_img0", False):
        raise UserError(
            "INPUT.AUGMENT device makes one view of an image (no DATALOADER.K_TRANSFORMS, no RETURN_IMG0): "
            "type INPUT.AUGMENT cpu."
        )
    data.transform = Draw(data.transform)
    loader.collate_fn = functools.partial(_collate, data.transform)


def _collate(draw: Draw, items: list[dict[str, Any]]) -> dict[str, Any]:
    rest = default_collate([{key: value for key, value in item.items() if key != "img"} for item in items])
    return {"img": Views([item["img"] for item in items], draw), **rest}
