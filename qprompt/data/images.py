"""Decode untrusted images: a bad file raises one clear error instead of a crash, a hang or exhausted memory."""

import functools
import io
import os
import stat
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError, features

from qprompt.data.file_kinds import kind_of
from qprompt.data.not_shown import NotShown
from qprompt.data.viewing import as_viewed
from qprompt.errors import UserError

# Pillow supports formats that start other programs (EPS) or that no data set needs. Only these are opened.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
# A decoded image takes 3 bytes per pixel. From this size on, Pillow raises an error instead of a warning.
MAX_PIXELS = 178_956_970
PIXELS_PER_BYTE = 10_000  # the best compression of a blank image
_PIXELS_PER_BYTE_OF_VIDEO_CODECS = 1_000_000  # AVIF and HEIC
# How pixels are read: as a viewer shows them, or as CoOp and MaPLe read them, which ignore tags and transparency.
PIXELS = ("viewer", "upstream")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class ImageError(UserError, OSError):
    """An image that cannot be read; the message names the file.

    The error of a DataLoader worker reaches the main process as text with a traceback; only its last line is used.
    """

    def __init__(self, message: str):
        super().__init__(message.rstrip().rpartition("\n")[2].removeprefix(f"{__name__}.ImageError: "))


def pixels_of(dataset: str) -> str:
    """Return how the pixels of a data set are read: "upstream" for those of the benchmark, else "viewer"."""
    from qprompt.data.layouts import LAYOUTS

    return "upstream" if dataset in LAYOUTS else "viewer"


def read_image(path: str | os.PathLike[str], pixels: str = "viewer") -> Image.Image:
    """Read an image file as RGB.

    Args:
        path: The file.
        pixels: One of PIXELS.

    Raises:
        ImageError: The file is missing, truncated, too large or not an image.
    """
    return read_with_notes(path, pixels)[0]


def read_with_notes(path: str | os.PathLike[str], pixels: str = "viewer") -> tuple[Image.Image, tuple[str, ...]]:
    """Read an image as `read_image` does, and return what a viewer does to its pixels (see `as_viewed`)."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block forever
            raise ImageError(f"{path} is not a file.")
        # From memory: Pillow reads as many bytes as the file claims, and a file object allocates them first.
        data = Path(path).read_bytes()
        if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
            register_heif()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large sizes, which are checked below, and odd metadata
            with Image.open(io.BytesIO(data), formats=_known_formats()) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ImageError(f"{path} has {width} x {height} pixels, more than the maximum of {MAX_PIXELS}.")
                video = image.format in ("AVIF", "HEIF")
                if width * height > len(data) * (_PIXELS_PER_BYTE_OF_VIDEO_CODECS if video else PIXELS_PER_BYTE):
                    raise ImageError(f"{path} claims {width} x {height} pixels in {len(data)} bytes.")
                if pixels == "upstream":
                    return image.convert("RGB"), ()
                return as_viewed(image)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist.") from None
    except PermissionError:
        raise ImageError(f"{path} may not be read by you: permission denied.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} {_why_unknown(data)}.") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is refused: {error}") from None
    except NotShown as error:
        raise ImageError(f"{path} {error}.") from None
    # Pillow's decoders raise many kinds of exceptions on damaged files.
    except Exception as error:
        raise ImageError(f"{path} cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}.") from None


def view(image: Image.Image, name: str) -> Image.Image:
    """Return the RGB pixels that a viewer shows of an opened image; ImageError calls it `name`."""
    try:
        return as_viewed(image)[0]
    except NotShown as error:
        raise ImageError(f"{name} {error}.") from None
    except Exception as error:  # of Pillow's decoders, as in `read_with_notes`
        raise ImageError(f"{name} cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}.") from None


def limits() -> dict[str, Any]:
    """Return what decides in this process which images are read: our limit, and Pillow's settings."""
    return {
        "MAX_PIXELS": MAX_PIXELS,
        "MAX_IMAGE_PIXELS": Image.MAX_IMAGE_PIXELS,
        "LOAD_TRUNCATED_IMAGES": ImageFile.LOAD_TRUNCATED_IMAGES,
    }


def set_limits(found: dict[str, Any]) -> None:
    """Read images as in the process whose `limits` these are: a worker that is not forked starts with the defaults."""
    global MAX_PIXELS
    MAX_PIXELS = found["MAX_PIXELS"]
    Image.MAX_IMAGE_PIXELS = found["MAX_IMAGE_PIXELS"]
    ImageFile.LOAD_TRUNCATED_IMAGES = found["LOAD_TRUNCATED_IMAGES"]


@functools.cache
def register_heif() -> bool:
    """Let Pillow open HEIC files; False if the package pillow-heif is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def missing_decoder(suffix: str) -> str:
    """Return what to type for files with this suffix ("heic") to be read; "" if they are."""
    if suffix in ("heic", "heif", "hif") and not register_heif():
        return "pip install pillow-heif"
    if suffix in ("avif", "avifs") and not features.check("avif"):
        return "pip install --upgrade pillow"
    return ""


def _why_unknown(data: bytes) -> str:
    if not data:
        return "is empty"
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in (b"avif", b"avis") and (command := missing_decoder("avif")):
        return f"is an AVIF image, which this Pillow cannot read: {command}"
    if brand in _HEIC_BRANDS and (command := missing_decoder("heic")):
        return f"is a HEIC image, which needs pillow-heif: {command}"
    kind = kind_of(data)
    return "is not an image of a known format" + (f" but {kind}" if kind else "")
