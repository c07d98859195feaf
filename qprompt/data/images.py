"""Decode untrusted images: a bad file raises one clear error instead of a crash, a hang or exhausted memory."""

import io
import os
import stat
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from qprompt.errors import UserError

# Pillow supports formats that start other programs (EPS) or that no data set needs. Only these are opened.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# A decoded image takes 3 bytes per pixel. From this size on, Pillow raises an error instead of a warning.
MAX_PIXELS = 178_956_970
PIXELS_PER_BYTE = 10_000  # the best compression of a blank image


class ImageError(UserError, OSError):
    """An image that cannot be read; the message names the file.

    The error of a DataLoader worker reaches the main process as text with a traceback; only its last line is used.
    """

    def __init__(self, message: str):
        super().__init__(message.rstrip().rpartition("\n")[2].removeprefix(f"{__name__}.ImageError: "))


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as RGB.

    Raises:
        ImageError: The file is missing, truncated, too large or not an image.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block forever
            raise ImageError(f"{path} is not a file.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large sizes, which are checked below, and odd metadata
            # From memory: Pillow reads as many bytes as the file claims, and a file object allocates them first.
            with Image.open(io.BytesIO(Path(path).read_bytes()), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ImageError(f"{path} has {width} x {height} pixels, more than the maximum of {MAX_PIXELS}.")
                if width * height > PIXELS_PER_BYTE * (size := os.path.getsize(path)):
                    raise ImageError(f"{path} claims {width} x {height} pixels in {size} bytes.")
                return image.convert("RGB")
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist.") from None
    except UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        raise ImageError(f"{path} is {'empty' if empty else 'not an image of a known format'}.") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is refused: {error}") from None
    # Pillow's decoders raise many kinds of exceptions on damaged files.
    except Exception as error:
        raise ImageError(f"{path} cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}.") from None
