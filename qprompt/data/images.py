"""Decodes images that may come from anyone: a bad file gives one clear error, not a crash, a hang or full memory."""

import io
import os
import stat
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from qprompt.errors import UserError

# Pillow knows formats that start other programs (EPS) or that no data set needs: these are all that is opened.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# A decoded image takes 3 bytes a pixel. This is where Pillow itself raises rather than warns.
MAX_PIXELS = 178_956_970
PIXELS_PER_BYTE = 10_000  # what the best compression makes of a blank picture


class ImageError(UserError, OSError):
    """An image that cannot be used; the message names the file.

    A DataLoader worker's error reaches the main process as text with a traceback: only its last line is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.rstrip().rpartition("\n")[2].removeprefix(f"{__name__}.ImageError: "))


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image as RGB. ImageError names a file that is missing, truncated, too large or no image."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise ImageError(f"{path} is not a file.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes and of odd metadata; the size is checked here
            # From memory: Pillow asks for as many bytes as the file says, and a file makes a buffer for them first.
            with Image.open(io.BytesIO(Path(path).read_bytes()), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ImageError(f"{path} has {width} x {height} pixels, more than the {MAX_PIXELS} allowed.")
                if width * height > PIXELS_PER_BYTE * (size := os.path.getsize(path)):
                    raise ImageError(f"{path} claims {width} x {height} pixels in {size} bytes.")
                return image.convert("RGB")
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path} is not there.") from None
    except UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        raise ImageError(f"{path} is {'empty' if empty else 'not an image of a known format'}.") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is refused: {error}") from None
    # Pillow's decoders raise many kinds of errors on damaged files
    except Exception as error:
        raise ImageError(f"{path} cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}.") from None
