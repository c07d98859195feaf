"""Images of any depth with 8 bits per channel."""

from typing import Any

import numpy as np
from PIL import Image

from qprompt.data import tiff
from qprompt.data.not_shown import NotShown


def eight_bits(image: Image.Image, opened: Image.Image, stored: str, notes: list[str]) -> Image.Image:
    """Return `image` with 8 bits per channel; a transparent colour becomes an alpha channel.

    Args:
        image: The pixels.
        opened: The image as it was opened, with the tags of its file.
        stored: How the file stores its pixels.
        notes: Gets what was done.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = Image.fromarray(_scaled(values, opened, notes))
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
        return _with_clear_colour(image, stored).convert("RGBA")
    if image.mode == "RGBa":
        return image.convert("RGBA")
    if image.mode in ("YCbCr", "HSV"):
        notes.append(f"converted from {image.mode}")
    return image if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB") else image.convert("RGB")


def _with_clear_colour(image: Image.Image, stored: str) -> Image.Image:
    """Return an image whose transparent colour has 8 bits, as its pixels have: Pillow keeps the value in the file."""
    clear = image.info["transparency"]
    if isinstance(clear, tuple) and "16" in stored:
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    elif isinstance(clear, int) and stored in ("L;2", "L;4"):
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}[stored]
    return image


def _scaled(values: np.ndarray, image: Image.Image, notes: list[str]) -> np.ndarray:
    """Return grey values of 16 or 32 bits, or with a sign, as uint8.

    16 bits are scaled by the range of the format. No rule says what is white in 32 bits: values up to 1, 255 or 65535
    are scaled by that range, others by the least and largest value of the image; so are values with a sign.
    """
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(tiff.BITS_PER_SAMPLE, (8 * values.dtype.itemsize,))[0]
    # Pillow and others write all numbers of 32 bits as signed ones.
    signed = image.format == "TIFF" and values.dtype.kind == "i" and bits < 32 and tiff.is_signed(image)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise NotShown("holds NaN or infinite values: convert it to 8 bits")
    elif values.dtype.itemsize == 4 and image.format == "TIFF" and not tiff.is_signed(image):
        values = values.view(np.uint32)
    low, high = float(values.min()), float(values.max())
    depth = (
        "float" if values.dtype.kind == "f" else f"signed {bits}-bit" if signed else f"{8 * values.dtype.itemsize}-bit"
    )
    white = 0.0
    if values.dtype.itemsize == 2:
        white = float(2 ** (bits if 8 < bits < 16 else 16) - 1)
    elif values.dtype.kind != "f" and image.format in ("PNG", "PPM"):
        depth, white = "16-bit", 65535.0
    elif values.dtype.kind == "f" and low >= -0.1 and high <= 2:  # sharpening leaves values a little beyond 0 and 1
        white = 1.0
    elif low >= 0 and not signed:
        white = next((w for w in (255.0, 65535.0) if high <= w), 0.0)
    if white:
        notes.append(f"{depth} grey scaled to 8 bits")
        if high < white / 8 and low != high:
            notes.append("nearly black: the values use less than an eighth of their range")
        black = 0.0
    else:
        notes.append(f"{depth} grey scaled to 8 bits by its own least and largest value")
        black, white = low, max(high, low + np.finfo(np.float32).tiny)
    result = np.rint(np.clip((values.astype(np.float64) - black) / (white - black), 0, 1) * 255).astype(np.uint8)
    if tags.get(tiff.PHOTOMETRIC) == 0:  # white is 0; Pillow inverts only smaller depths
        result = 255 - result
    return result
