"""From an image to the tensor that CLIP's image encoder takes, as a value that can be stored, compared and printed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from qprompt.data.not_shown import NotShown
from qprompt.data.viewing import as_viewed
from qprompt.errors import UserError

# Of CLIP's training images (Radford et al., 2021); CoOp's and MaPLe's config files have the same numbers.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LARGEST_SIDE = 4096
INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop the center, scale to [0, 1], and normalize each channel: a PIL image -> (3, H, W) fp32.

    Attributes:
        size: (H, W) of the crop, in pixels.
        resize: Length of the shorter side after resizing; or height and width.
        interpolation: Pillow's filter, by the name that torchvision gives it.
        mean, std: Per channel, on the scale [0, 1].
    """

    size: tuple[int, int]
    resize: int | tuple[int, int]
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __call__(self, image: Image.Image) -> Any:
        """Return the tensor (3, H, W) of an image of any mode, as a viewer shows it.

        Raises:
            UserError: There is no one right picture (see `NotShown`).
        """
        from torchvision.transforms import functional as F

        resize = self.resize if isinstance(self.resize, int) else list(self.resize)
        try:
            image, _ = as_viewed(image)
        except NotShown as error:
            raise UserError(f"the image {error}.") from None
        image = F.resize(image, resize, F.InterpolationMode(self.interpolation))
        return F.normalize(F.to_tensor(F.center_crop(image, list(self.size))), list(self.mean), list(self.std))

    @classmethod
    def of_clip(cls, resolution: int) -> "Preprocessing":
        """Return OpenAI's for a model that takes `resolution` x `resolution` pixels."""
        return cls((resolution, resolution), resolution)

    @classmethod
    def of_transform(cls, transform: Any) -> "Preprocessing | None":
        """Return what a torchvision transform computes; None if it has a step that this class does not describe.

        Args:
            transform: A `Compose` of Resize, CenterCrop, ToTensor and Normalize, as Dassl builds it for testing.
        """
        import torchvision.transforms as T

        order = [T.Resize, T.CenterCrop, T.ToTensor, T.Normalize]
        # clip's own transform converts to RGB by a function; `__call__` does it too.
        found = [
            s for s in getattr(transform, "transforms", ()) if getattr(s, "__name__", "") != "_convert_image_to_rgb"
        ]
        kinds: list[Any] = [type(step) for step in found]
        if kinds != [kind for kind in order if kind in kinds] or not {T.Resize, T.ToTensor} <= set(kinds):
            return None
        steps: dict[Any, Any] = dict(zip(kinds, found, strict=True))
        if getattr(steps[T.Resize], "max_size", None):
            return None
        resize = steps[T.Resize].size
        if isinstance(resize, Sequence):
            resize = tuple(resize) if len(resize) > 1 else resize[0]
        size = steps[T.CenterCrop].size if T.CenterCrop in steps else resize
        normalize = steps.get(T.Normalize)
        try:
            return cls.from_json(
                {
                    "size": size,  # refused if it is one number: without a crop, the width depends on the image
                    "resize": resize,
                    "interpolation": steps[T.Resize].interpolation.value,
                    "mean": [float(x) for x in normalize.mean] if normalize else [0.0] * 3,
                    "std": [float(x) for x in normalize.std] if normalize else [1.0] * 3,
                }
            )
        except (AttributeError, ValueError):
            return None

    @classmethod
    def from_json(cls, data: Any) -> "Preprocessing":
        """Return what `to_json` described. ValueError says what is wrong with it."""
        if not isinstance(data, Mapping) or data.keys() != {"size", "resize", "interpolation", "mean", "std"}:
            raise ValueError("it does not have exactly size, resize, interpolation, mean and std")
        size, resize = data["size"], data["resize"]
        if not (_pair(size) and (_side(resize) or _pair(resize))):
            raise ValueError(f"size {size!r} and resize {resize!r} are not sides of 1 to {LARGEST_SIDE} pixels")
        if data["interpolation"] not in INTERPOLATIONS:
            raise ValueError(f"its interpolation {data['interpolation']!r} is none of {', '.join(INTERPOLATIONS)}")
        for name in ("mean", "std"):
            if not _three_numbers(data[name], above=0 if name == "std" else -1e9):
                raise ValueError(f"its {name} is not three numbers{' above 0' if name == 'std' else ''}")
        resize = resize if isinstance(resize, int) else tuple(resize)
        return cls(tuple(size), resize, data["interpolation"], tuple(data["mean"]), tuple(data["std"]))

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def _side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_SIDE


def _pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_side, value))


def _three_numbers(value: Any, above: float) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(x, (int, float)) and not isinstance(x, bool) and above < x < 1e9 for x in value)
    )
