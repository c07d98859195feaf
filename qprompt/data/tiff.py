"""TIFF files that Pillow opens but reads wrongly, and a description of those that it cannot open."""

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from qprompt.data.not_shown import NotShown

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
_NEW_SUBFILE_TYPE, _SAMPLES, _PLANAR, _COLOR_MAP, _DNG_VERSION = 254, 277, 284, 320, 50706
_FORMATS = {1: "unsigned", 2: "signed", 3: "float"}


def check(image: Image.Image) -> None:
    """Raise NotShown for an opened TIFF whose pixels Pillow would read wrongly without an error."""
    tags: Any = getattr(image, "tag_v2", {})
    if _DNG_VERSION in tags or _first(tags, _NEW_SUBFILE_TYPE, 0) & 1:
        raise NotShown("is a raw photo or a pyramid whose first page is a thumbnail: convert it to PNG")
    if _first(tags, _PLANAR, 1) == 2 and max(_all(tags, BITS_PER_SAMPLE)) > 8 and _first(tags, _SAMPLES, 1) > 1:
        raise NotShown("is a TIFF with planes of more than 8 bits, which Pillow reads wrongly: convert it to PNG")


def mended(image: Image.Image) -> Image.Image:
    """Return a loaded TIFF with the right pixels where Pillow's are wrong, else `image`.

    Signed bytes become an image of mode "I". A palette of values up to 255 has 8 bits, as all viewers take it, although
    the format has 16.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode == "L" and _first(tags, SAMPLE_FORMAT, 1) == 2:
        return Image.fromarray(np.asarray(image).view(np.int8).astype(np.int32))
    colours = _all(tags, _COLOR_MAP) if image.mode == "P" and _COLOR_MAP in tags else []
    if colours and max(colours) < 256:
        palette = np.array(colours).reshape(3, -1).T
        image = image.copy()
        image.putpalette([int(value) for value in palette.ravel()])
    return image


def is_signed(image: Image.Image) -> bool:
    """Return whether the values of a TIFF have a sign."""
    return _first(getattr(image, "tag_v2", {}), SAMPLE_FORMAT, 1) == 2


def describe(data: bytes) -> str:
    """Return what a TIFF that Pillow does not open contains."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged tags
            return _described(data)
    except Exception:  # of Pillow, on damaged files
        return "a TIFF that is damaged"


def _described(data: bytes) -> str:
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    bits, kind = _all(tags, BITS_PER_SAMPLE), _FORMATS.get(_first(tags, SAMPLE_FORMAT, 1), "unknown")
    samples = _first(tags, _SAMPLES, 1)
    return f"a TIFF with {samples} {kind} {'channels' if samples > 1 else 'channel'} of {bits[0]} bits"


def _first(tags: Any, tag: int, default: int) -> int:
    values = _all(tags, tag)
    return values[0] if tag in tags and values else default


def _all(tags: Any, tag: int) -> list[int]:
    value = tags.get(tag, (1,))
    return [int(number) for number in (value if isinstance(value, (tuple, list)) else (value,))]
