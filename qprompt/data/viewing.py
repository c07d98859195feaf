"""The RGB pixels of an image as a viewer shows it: oriented, in sRGB, in 8 bits, on white."""

import functools
import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from qprompt.data import tiff
from qprompt.data.depth import eight_bits
from qprompt.data.stated_colours import SRGB, Stated, profile_of, stated_colours

_ORIENTATION = 274  # tag of TIFF and EXIF
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


def reading_code() -> tuple[Callable[..., Any], ...]:
    """Return functions whose files decide what is seen, for keys of what is kept."""
    return as_viewed, eight_bits, tiff.mended, stated_colours


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
    stated = stated_colours(image)
    if image.format == "TIFF":
        tiff.check(image)
    stored = next((str(tile[3]) for tile in getattr(image, "tile", ())), "")  # Pillow's name of how pixels are stored
    tagged = _orientation(image)  # loads a PNG
    image.load()
    turn = _orientation(image)  # Pillow itself turns a TIFF while it is loaded
    given = tiff.mended(image) if image.format == "TIFF" else image
    colours, alpha = _without_alpha(eight_bits(given, image, stored, notes))
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
