"""The RGB pixels of an image as a viewer shows it: oriented, in sRGB, in 8 bits, on white."""

import functools
import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from qprompt.data.stated_colours import SRGB, Stated, UnknownColours, profile_of, stated_colours

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT, _ORIENTATION = 258, 262, 339, 274  # tags of TIFF and EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab "}  # mode -> colour space in a profile
_NO_INTERPOLATION = 0x0100  # cmsFLAGS_NOOPTIMIZE of Little CMS


class NotShown(ValueError):
    """An image for which there is no one right picture; the message says why."""


def as_viewed(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the pixels that a viewer shows.

    Args:
        image: of any mode, as Pillow opens it.

    Returns:
        An RGB image, which is its own view, and what was done to the pixels, in words; nothing for 8-bit RGB, grey and
        palette images without tags.

    Raises:
        NotShown: A float image holds NaN or infinite values, or the image has a high dynamic range.
    """
    notes: list[str] = []
    if getattr(image, "is_animated", False):
        notes.append("first of several frames or pages")
    try:
        stated = stated_colours(image)
    except UnknownColours as error:
        raise NotShown(str(error)) from None
    tagged = _orientation(image)  # loads a PNG
    image.load()
    turn = _orientation(image)  # Pillow itself turns a TIFF while it is loaded
    colours, alpha = _without_alpha(_eight_bits(image, notes))
    colours = _in_srgb(colours, image.info.get("icc_profile"), stated, notes)
    if alpha is not None:
        colours = _on_white(colours, alpha, image.format, notes)
    if turn is not None:
        colours = colours.transpose(turn)
    if tagged is not None or turn is not None:
        notes.append("turned as its orientation tag says")
    if colours is not image:
        colours.info = {}  # its tags have been applied: the result is shown as it is
    return colours, tuple(notes)


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # viewers ignore damaged tags, for which Pillow raises nearly any exception
        return None
    return _TURNS.get(value) if isinstance(value, int) else None


# ---- depth


def _eight_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    """Return `image` with 8 bits per channel; a transparent colour becomes an alpha channel."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = Image.fromarray(_scaled(values, image, notes))
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return grey
    if image.mode == "La":
        return image.convert("LA")
    if image.mode in ("P", "PA"):
        palette = image.palette.mode if image.palette else ""
        clear = image.mode == "PA" or "transparency" in image.info or palette.endswith("A")
        return image.convert("RGBA" if clear else "RGB")
    if "transparency" in image.info and image.mode in ("1", "L", "RGB"):
        return image.convert("RGBA")
    if image.mode == "RGBa":
        return image.convert("RGBA")
    if image.mode in ("YCbCr", "HSV"):
        notes.append(f"converted from {image.mode}")
    return image if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB") else image.convert("RGB")


def _scaled(values: np.ndarray, image: Image.Image, notes: list[str]) -> np.ndarray:
    """Return grey values of 16 or 32 bits as uint8.

    16 bits are scaled by the range of the format. No rule says what is white in 32 bits: values up to 1, 255 or 65535
    are scaled by that range, others by the least and largest value of the image.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise NotShown("holds NaN or infinite values: convert it to 8 bits")
    elif values.dtype.itemsize == 4 and image.format == "TIFF" and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:
        values = values.view(np.uint32)
    low, high = float(values.min()), float(values.max())
    depth = "float" if values.dtype.kind == "f" else f"{8 * values.dtype.itemsize}-bit"
    white = 0.0
    if values.dtype.itemsize == 2:
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        white = float(2 ** (bits if 8 < bits < 16 else 16) - 1)
    elif values.dtype.kind != "f" and image.format in ("PNG", "PPM"):
        depth, white = "16-bit", 65535.0
    elif values.dtype.kind == "f" and low >= -0.1 and high <= 2:  # sharpening leaves values a little beyond 0 and 1
        white = 1.0
    elif low >= 0:
        white = next((w for w in (255.0, 65535.0) if high <= w), 0.0)
    if white:
        notes.append(f"{depth} grey scaled to 8 bits")
        black = 0.0
    else:
        notes.append(f"{depth} grey scaled to 8 bits by its own least and largest value")
        black, white = low, max(high, low + np.finfo(np.float32).tiny)
    result = np.rint(np.clip((values.astype(np.float64) - black) / (white - black), 0, 1) * 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # white is 0; Pillow inverts only smaller depths
        result = 255 - result
    return result


# ---- transparency


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if image.mode not in ("LA", "RGBA"):
        return image, None
    alpha = image.getchannel("A")
    return image.convert(image.mode[:-1]), (None if alpha.getextrema() == (255, 255) else alpha)


def _on_white(colours: Image.Image, alpha: Image.Image, format_name: str | None, notes: list[str]) -> Image.Image:
    if alpha.getextrema() == (0, 0):
        if format_name == "BMP":  # the fourth byte is unused, which its header cannot always say
            return colours
        notes.append("wholly transparent: plain white")
    else:
        notes.append("transparent parts put on white")
    white = Image.new("RGB", colours.size, "white")
    white.paste(colours, mask=alpha)
    return white


# ---- colour


def _in_srgb(image: Image.Image, profile: bytes | None, stated: Stated | None, notes: list[str]) -> Image.Image:
    """Return an L, RGB, CMYK or LAB image as RGB in sRGB."""
    convert, name, target, by = None, "", b"", "its colour profile"
    if stated and image.mode in ("L", "RGB"):
        by = stated.by
        target = profile_of(SRGB, stated.display, image.mode == "L") if stated.display else b""
        try:
            profile = profile_of(stated.primaries, stated.gamma, image.mode == "L")
        except (ValueError, OverflowError, struct.error):
            profile, name = None, "damaged chromaticities not used"
    if profile:
        convert, name = _conversion(profile, image.mode, target)
    if convert:
        notes.append(f"converted from {by} to sRGB")
        return convert(image)
    if name:
        notes.append(name)
    if image.mode == "LAB":
        notes.append("converted from Lab")
        return _transform(ImageCms.createProfile("LAB"), "LAB")(image)
    if image.mode == "CMYK":
        notes.append("converted from CMYK without a profile")
    return image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _conversion(
    profile: bytes, mode: str, target: bytes = b""
) -> tuple[Callable[[Image.Image], Image.Image] | None, str]:
    """The conversion of a profile to sRGB, or to `target`; None if it changes nothing, or with a note why not."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if opened.profile.xcolor_space != _SPACES[mode]:
            return None, "colour profile of another colour space not used"
        convert = _transform(opened, mode, target=target)
    except (ImageCms.PyCMSError, OSError, ValueError, KeyError, ImportError):
        return None, "damaged colour profile not used"
    if mode == "RGB":
        steps = np.stack(np.meshgrid(*[np.arange(0, 256, 17, dtype=np.uint8)] * 3), axis=-1).reshape(64, 64, 3)
    elif mode == "L":
        # One table of all levels: Little CMS interpolates between 33 of them otherwise.
        steps = np.arange(256, dtype=np.uint8)[None]
        levels = np.asarray(_transform(opened, mode, _NO_INTERPOLATION, target)(Image.fromarray(steps)))[0]
        convert = functools.partial(_looked_up, levels.T.ravel().tolist())
    else:
        return convert, ""
    colours = Image.fromarray(steps)
    change = np.asarray(convert(colours)).astype(int) - np.asarray(colours.convert("RGB"))
    # Copies of sRGB differ by rounding.
    return (convert, "") if np.abs(change).max() > 2 else (None, "")


def _looked_up(levels: list[int], grey: Image.Image) -> Image.Image:
    return Image.merge("RGB", [grey] * 3).point(levels)


def _transform(profile: Any, mode: str, flags: int = 0, target: bytes = b"") -> Callable[[Image.Image], Image.Image]:
    shown: Any = ImageCms.ImageCmsProfile(io.BytesIO(target)) if target else ImageCms.createProfile("sRGB")
    # A grey target is made of one channel.
    result = "L" if target and mode == "L" else "RGB"
    transform = ImageCms.buildTransform(profile, shown, mode, result, flags=flags)  # type: ignore[arg-type]

    def convert(image: Image.Image) -> Image.Image:
        done: Any = ImageCms.applyTransform(image, transform)
        return done.convert("RGB")

    return convert
