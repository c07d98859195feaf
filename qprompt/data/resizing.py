"""Pillow's resizing of 8-bit images, bit for bit, as sums over tensors on any device.

Pillow resizes in two passes, along the rows and along the columns. A pixel of a pass is a weighted sum of neighbours:
the filter gives the weights, they are rounded to integers (22 bits behind the point), and the sum is rounded to 8 bits.
Where an image is made smaller, the filter is stretched to the pixels that a new one covers.

An axis is (length, output, first, offset): `length` pixels become `output`, of which those from `first` on are kept;
the pixels at hand begin at `offset`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable

import PIL
import torch
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode

_POINT = 22
_PILLOW = tuple(int(number) for number in PIL.__version__.split(".")[:2] if number.isdigit())
Axis = tuple[int, int, int, int]


def _triangle(x: Tensor) -> Tensor:
    return (1 - x).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys, Cubic convolution interpolation for digital image processing (1981), with a = -1/2."""
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, far) * (x < 2)


@dataclasses.dataclass(frozen=True)
class Filter:
    """Weights by distance (0 or more), which are 0 from `reach` on: in output pixels or, if wider, input pixels."""

    weight: Callable[[Tensor], Tensor]
    reach: int

    def taps(self, scale: float) -> int:
        """How many neighbours a pixel may have where an axis is made `scale` times smaller."""
        return 2 * math.ceil(self.reach * max(scale, 1.0)) + 1

    def needed(self, length: int, output: int, first: int, count: int) -> tuple[int, int]:
        """Where the input begins and ends on which `count` outputs from `first` on depend."""
        scale = length / output
        reach = self.reach * max(scale, 1.0)
        start, stop = (first + 0.5) * scale - reach + 0.5, (first + count - 0.5) * scale + reach + 0.5
        return max(int(start), 0), min(int(stop), length)

    def neighbours(self, axes: Tensor, count: int, taps: int) -> tuple[Tensor, Tensor]:
        """For `count` outputs of each axis (B, 4): the first neighbour (B, count) among the pixels at hand, and integer
        weights (taps, B, count) of that one and those behind it. Outputs beyond the last repeat it.

        In doubles and in Pillow's order, so that rounding is Pillow's too.
        """
        length, output, first, offset = axes.double()[..., None].unbind(1)  # (B, 1) each
        index = (first + torch.arange(count, device=axes.device)).minimum(output - 1)
        scale = length / output
        stretch = scale.clamp(min=1)
        center = (index + 0.5) * scale
        low = (center - self.reach * stretch + 0.5).trunc().clamp(min=0)
        number = (center + self.reach * stretch + 0.5).trunc().minimum(length) - low
        tap = torch.arange(taps, dtype=torch.float64, device=axes.device)[:, None, None]
        weights = self.weight(((tap + low - center + 0.5) * (1 / stretch)).abs()) * (tap < number)
        weights = weights / functools.reduce(torch.add, weights) * 2**_POINT
        return (low - offset).long(), (weights + 0.5 * weights.sign()).trunc().int()


FILTERS = {
    InterpolationMode.BILINEAR: Filter(_triangle, 1),
    InterpolationMode.BICUBIC: Filter(_cubic, 2),
}


def weighted_sum(values: Tensor, at: Tensor, weights: Iterable[Tensor]) -> Tensor:
    """``values[:, at]`` and those behind each, times the weight of each tap, summed: (3, ...), uint8.

    values: (3, N), or (3, N, W) with whole lines in place of pixels; at: indices below N.
    """
    shape, at, last = (3, *at.shape, *values.shape[2:]), at.flatten(), values.shape[1] - 1
    total = torch.full(shape, 1 << (_POINT - 1), dtype=torch.int32, device=values.device)
    for tap, weight in enumerate(weights):
        index = (at + tap).clamp(max=last)  # what lies behind the image has weight 0
        chosen = values.gather(1, index.expand(3, -1)) if values.dim() == 2 else values.index_select(1, index)
        total.addcmul_(weight.expand(shape), chosen.view(shape).int())
    return (total >> _POINT).clamp_(0, 255).to(torch.uint8)


def columns_first(height: int, width: int, output: tuple[int, ...]) -> bool:
    """Whether this Pillow goes along the columns first: from 12.3 on it does so for images that lose much height."""
    if height <= output[0]:
        return False
    if _PILLOW >= (13,):
        return height - output[0] > 2 * (width - output[1])
    return _PILLOW >= (12, 3) and height > 100 * width
