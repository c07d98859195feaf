"""The colours that a file states without a profile: cICP, cHRM and gAMA of PNG, nclx of AVIF and HEIC."""

import functools
import struct
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from qprompt.data.not_shown import NotShown

# Code points of ITU-T H.273: primaries and white in x, y. 2 stands for "unspecified", which viewers take for 1.
_D65, _CENTRE_C = (0.3127, 0.3290), (0.310, 0.316)
SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65)
_PRIMARIES = {
    1: SRGB,
    2: SRGB,
    4: ((0.670, 0.330), (0.210, 0.710), (0.140, 0.080), _CENTRE_C),
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060), _D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
# Transfer functions: a gamma, or 0 for sRGB's. Viewers show those of television (1, 6, 14, 15) as sRGB's.
_TRANSFERS = {1: 0.0, 2: 0.0, 6: 0.0, 13: 0.0, 14: 0.0, 15: 0.0, 4: 2.2, 5: 2.8, 8: 1.0}
_HDR = {16: "PQ", 18: "HLG"}
_DISPLAY_GAMMA = 2.2
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


class Stated(NamedTuple):
    """Colours of a file.

    Attributes:
        primaries: x, y of red, green, blue and white.
        gamma: Of the levels; 0: sRGB's transfer function.
        display: The gamma of the display that they are shown on; 0: sRGB's transfer function.
        by: What states them, for notes.
    """

    primaries: tuple[tuple[float, float], ...]
    gamma: float
    display: float
    by: str


def stated_colours(image: Image.Image) -> Stated | None:
    """Return the colours that the file of an opened image states; None if it states none, or has a profile.

    Args:
        image: As Pillow opens it, before its pixels are loaded.

    Raises:
        NotShown: The picture has a high dynamic range (PQ, HLG), which has no one right version in sRGB.
    """
    codes = _cicp(image) if image.format == "PNG" else _nclx(image) if image.format in ("AVIF", "HEIF") else None
    if codes:
        primaries, transfer = codes
        if transfer in _HDR:
            raise NotShown(f"has a high dynamic range ({_HDR[transfer]}): convert it to sRGB")
        if primaries in _PRIMARIES and transfer in _TRANSFERS and "icc_profile" not in image.info:
            return Stated(_PRIMARIES[primaries], _TRANSFERS[transfer], 0.0, "its colour tag")
        if image.format == "PNG":  # cICP precedes the others
            return None
    info: dict[Any, Any] = image.info
    gamma = info.get("gamma")
    if image.format != "PNG" or "icc_profile" in info or "srgb" in info or not isinstance(gamma, float) or gamma <= 0:
        return None
    # Like viewers: chromaticities count together with a gamma only, and a gamma near sRGB's is sRGB's.
    near = abs(1 / (_DISPLAY_GAMMA * gamma) - 1) < 0.05
    ours, display = (0.0, 0.0) if near else (1 / gamma, _DISPLAY_GAMMA)
    numbers = info.get("chromaticity")
    if not isinstance(numbers, tuple) or len(numbers) != 8:
        return Stated(SRGB, ours, display, "gamma of the file")
    white, *colours = zip(numbers[::2], numbers[1::2], strict=True)
    return Stated((*colours, white), ours, display, "gamma and chromaticities of the file")


def _cicp(image: Image.Image) -> tuple[int, int] | None:
    """Primaries and transfer function of a PNG's chunk cICP, which lies before its pixels."""
    file: Any = getattr(image, "fp", None)
    if file is None or not hasattr(file, "seek"):
        return None
    place = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind == b"cICP" and size == 4:
                return tuple(file.read(4)[:2])
            if kind in (b"IDAT", b"IEND"):
                return None
            file.seek(size + 4, 1)
        return None
    finally:
        file.seek(place)


def _nclx(image: Image.Image) -> tuple[int, int] | None:
    """Primaries and transfer function of the first box "colr" of kind "nclx"."""
    file: Any = getattr(image, "fp", None)
    if file is None or not hasattr(file, "seek"):
        return None
    place = file.tell()
    try:
        file.seek(0)
        head = file.read(1 << 16)
    finally:
        file.seek(place)
    start = head.find(b"colrnclx")
    return struct.unpack(">HH", head[start + 8 : start + 12]) if 0 <= start <= len(head) - 12 else None


@functools.lru_cache(maxsize=16)
def profile_of(primaries: tuple[tuple[float, float], ...], gamma: float, grey: bool = False) -> bytes:
    """Return an ICC profile (version 4): RGB with these primaries, or grey.

    Args:
        primaries: x, y of red, green, blue and white.
        gamma: Of the levels; 0: sRGB's transfer function.
        grey: Whether the profile is for grey images, which have no primaries.

    Raises:
        ValueError: The primaries lie on a line.
    """
    curve = _curve(gamma)
    tags = {b"desc": _text("colours stated by the file"), b"cprt": _text("none"), b"wtpt": _xyz(_D50)}
    if grey:
        tags[b"kTRC"] = curve
    else:
        for letter, column in zip((b"r", b"g", b"b"), _columns(primaries).T, strict=True):
            tags[letter + b"XYZ"], tags[letter + b"TRC"] = _xyz(column), curve
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"lcms", 0x04300000, b"mntr", b"GRAY" if grey else b"RGB ", b"XYZ "
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", *(round(v * 65536) for v in _D50))
    return header.ljust(128, b"\0") + table + body


def _columns(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """The primaries in XYZ, adapted to D50, as columns."""
    if any(y <= 0 for _, y in primaries):
        raise ValueError("y of a chromaticity is not above 0")
    points = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    white = points[:, 3]
    try:
        colours = points[:, :3] * np.linalg.solve(points[:, :3], white)
    except np.linalg.LinAlgError:
        raise ValueError("the chromaticities lie on a line") from None
    scale = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(scale) @ _BRADFORD @ colours


def _curve(gamma: float) -> bytes:
    if gamma:
        return b"para\0\0\0\0" + struct.pack(">HHi", 0, 0, round(gamma * 65536))
    numbers = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para\0\0\0\0" + struct.pack(">HH5i", 3, 0, *(round(v * 65536) for v in numbers))


def _xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(data), 28) + data
