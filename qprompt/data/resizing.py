"""Pillow's resizing of 8-bit images, bit for bit, with tensor operations on any device.

Pillow resizes in two passes, along the rows and along the columns. In a pass, a pixel is a weighted sum of its
neighbours: the weights of the filter are rounded to integers (22 fractional bits) and the sum to 8 bits. When an image
is reduced, the filter is stretched by the scale factor.

An axis is (length, output, first, offset): `length` pixels are resized to `output` pixels, of which those from `first`
on are used; the available pixels start at `offset`.
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
    """A resampling filter.

    Attributes:
        weight: The weight by distance (0 or more), in units of output pixels or, if wider, input pixels.
        reach: The distance from which on weights are 0.
    """

    weight: Callable[[Tensor], Tensor]
    reach: int

    def taps(self, scale: float) -> int:
        """Return the maximum number of neighbours of a pixel when an axis is reduced by the factor `scale`."""
        return 2 * math.ceil(self.reach * max(scale, 1.0)) + 1

    def needed(self, length: int, output: int, first: int, count: int) -> tuple[int, int]:
        """Return start and stop of the input that `count` outputs from `first` on depend on."""
        scale = length / output
        reach = self.reach * max(scale, 1.0)
        start, stop = (first + 0.5) * scale - reach + 0.5, (first + count - 0.5) * scale + reach + 0.5
        return max(int(start), 0), min(int(stop), length)

    def neighbours(self, axes: Tensor, count: int, taps: int) -> tuple[Tensor, Tensor]:
        """Find the neighbours of each output pixel and their weights.

        The arithmetic is in double precision and in Pillow's order, so that rounding is the same.

        Args:
            axes: (B, 4), the axes.
            count: The number of outputs; beyond the last one, it is repeated.
            taps: The number of neighbours, at least `Filter.taps`.

        Returns:
            The index (B, count) of the first neighbour among the available pixels, and the integer weights
            (taps, B, count) of that pixel and those after it.
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
    """Sum the values at `at` and after it, each multiplied by the weight of its tap.

    Args:
        values: (3, N) pixels or (3, N, W) lines, uint8.
        at: The index of the first neighbour, of any shape.
        weights: Integer weights per tap, broadcastable to the shape of the result.

    Returns:
        (3, *at.shape) or (3, *at.shape, W), uint8.
    """
    shape, at, last = (3, *at.shape, *values.shape[2:]), at.flatten(), values.shape[1] - 1
    total = torch.full(shape, 1 << (_POINT - 1), dtype=torch.int32, device=values.device)
    for tap, weight in enumerate(weights):
        index = (at + tap).clamp(max=last)  # weights beyond the image are 0
        chosen = values.gather(1, index.expand(3, -1)) if values.dim() == 2 else values.index_select(1, index)
        total.addcmul_(weight.expand(shape), chosen.view(shape).int())
    return (total >> _POINT).clamp_(0, 255).to(torch.uint8)


def columns_first(height: int, width: int, output: tuple[int, ...]) -> bool:
    """Return whether the installed Pillow resizes columns first, as version 12.3 does if the height is reduced most."""
    if height <= output[0]:
        return False
    if _PILLOW >= (13,):
        return height - output[0] > 2 * (width - output[1])
    return _PILLOW >= (12, 3) and height > 100 * width
