"""What a file is that is no image of a known format, by its first bytes, and what to do about it."""

from qprompt.data import tiff
from qprompt.io import file_kinds
from qprompt.io.file_kinds import AGAIN

_CONVERT = "convert it to PNG"
_KINDS = (
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image", _CONVERT),
    (rb"8BPS", "a Photoshop file", _CONVERT),
    (rb"%PDF", "a PDF file", _CONVERT),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file", _CONVERT),
    (rb"\s*<svg|\s*<\?xml.{0,400}<svg", "an SVG drawing", _CONVERT),
    (rb"\0\0[\x01\x02]\0", "an icon", _CONVERT),
    (rb"DDS ", "a DDS texture", _CONVERT),
    (rb"P7\s|PF\s", "a PAM or a colour PFM image", _CONVERT),
    (rb"v/1\x01", "an OpenEXR image", _CONVERT),
    (rb"#\?(RADIANCE|RGBE)", "a Radiance HDR image", _CONVERT),
    (rb".{128}DICM", "a DICOM image", _CONVERT),
    (rb"FUJIFILMCCD-RAW|IIRO|IIRS|IIU\0|....ftypcrx ", "a raw photo", _CONVERT),
    (rb"\x93NUMPY", "a NumPy array", "save it as PNG"),
    (rb"\x89HDF|\x80[\x02-\x05][^\0]", "data of a program", "save it as PNG"),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |....moov|....mdat|\0\0\x01[\xb3\xba]", "a film", "take a picture of it"),
    (rb"RIFF....WEBP", "a damaged WebP image", AGAIN),
    (rb"\xff\xd8\xff", "a damaged JPEG, or a JPEG of another kind (JPEG-LS, lossless)", AGAIN),
    (rb"\x89PNG", "a damaged PNG", AGAIN),
    (rb"GIF8|BM", "a damaged image", AGAIN),
)


def kind_of(data: bytes) -> str:
    """Return what a file is and what to do, as "a web page: download it again"; "" if its bytes do not say it."""
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return f"{tiff.describe(data)}: {_CONVERT}"
    return file_kinds.kind_of(data, _KINDS) or file_kinds.kind_of(data)
