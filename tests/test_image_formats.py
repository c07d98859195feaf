"""Formats: which are read, and what the others are called."""

import struct

import numpy as np
import pytest
from PIL import Image
from test_viewing import blocks, seen

from qprompt.data import images
from qprompt.data.images import ImageError, read_image


@pytest.fixture
def folder(tmp_path):
    return tmp_path


# ---- kinds of TIFF

RAMP = np.linspace(0, 1, 24).reshape(4, 6)
RGB = np.stack([RAMP, RAMP[::-1], RAMP**2], -1)
GREY_MAP = [level for _ in range(3) for level in range(256)]
# name -> arguments of `write_tiff`, and the expected pixels (0 to 1) or words of the error
KINDS_OF_TIFF = {
    "16-bit colour": ((RGB * 65535).astype("<u2"), {}, RGB),
    "16-bit planes": ((RGB * 65535).astype("<u2"), {"planes": True}, "planes of more than 8 bits.*convert it to PNG"),
    "8-bit planes": ((RGB * 255).astype("u1"), {"planes": True}, RGB),
    "signed 16 bits": ((RAMP * 3000 - 1000).astype("<i2"), {339: 2}, RAMP),
    "signed 16 bits from 0": ((RAMP * 3000).astype("<i2"), {339: 2}, RAMP),
    "signed 8 bits": ((RAMP * 254 - 127).astype("i1"), {339: 2}, RAMP),
    "palette of 16 bits": ((RAMP * 255).astype("u1"), {262: 3, 320: [257 * v for v in GREY_MAP]}, RAMP),
    "palette of 8 bits": ((RAMP * 255).astype("u1"), {262: 3, 320: GREY_MAP}, RAMP),
    "float16": (RAMP.astype("<f2"), {339: 3}, "a TIFF with 1 float channel of 16 bits: convert it to PNG"),
    "float colour": (RGB.astype("<f4"), {339: 3}, "a TIFF with 3 float channels of 32 bits"),
    "five channels": (np.zeros((4, 6, 5), "u1"), {338: [0] * 4}, "a TIFF with 5 unsigned channels of 8 bits"),
    "16-bit grey and alpha": (np.zeros((4, 6, 2), "<u2"), {338: 2}, "a TIFF with 2 unsigned channels of 16 bits"),
    "thumbnail first": ((RGB * 255).astype("u1"), {254: 1}, "raw photo or a pyramid whose first page is a thumbnail"),
    "DNG": ((RGB * 255).astype("u1"), {50706: [1, 4, 0, 0]}, "raw photo"),
}


def write_tiff(path, pixels, planes=False, **tags):
    """Write an uncompressed TIFF of kinds that Pillow cannot write; keywords are the names of tags."""
    height, width, samples = (*pixels.shape, 1)[:3]
    strips = [np.moveaxis(pixels, -1, 0)[i].tobytes() for i in range(samples)] if planes else [pixels.tobytes()]
    starts = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    fields = {256: width, 257: height, 258: [8 * pixels.itemsize] * samples, 259: 1, 262: 2 if samples == 3 else 1}
    fields |= {273: starts, 277: samples, 278: height, 279: [len(strip) for strip in strips], 284: 2 if planes else 1}
    fields |= {int(tag): value for tag, value in tags.items()}
    body, at = b"".join(strips), 8 + sum(map(len, strips))
    table, rest, start = struct.pack("<H", len(fields)), b"", at + 6 + 12 * len(fields)
    for tag, value in sorted(fields.items()):
        numbers = value if isinstance(value, list) else [value]
        data = struct.pack(f"<{len(numbers)}H", *numbers)
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", start + len(rest))
        table += struct.pack("<HHI", tag, 3, len(numbers)) + place
        rest += data if len(data) > 4 else b""
    path.write_bytes(b"II*\0" + struct.pack("<I", at) + body + table + bytes(4) + rest)


@pytest.mark.parametrize("kind", KINDS_OF_TIFF)
def test_kinds_of_tiff_are_right_or_refused_by_what_they_are(folder, kind):
    pixels, tags, expected = KINDS_OF_TIFF[kind]
    planes = tags.get("planes", False)
    write_tiff(folder / "a.tif", pixels, planes, **{str(tag): value for tag, value in tags.items() if tag != "planes"})
    if isinstance(expected, str):
        with pytest.raises(ImageError, match=expected):
            read_image(folder / "a.tif")
        return
    got = seen(folder / "a.tif") / 255
    assert np.abs(got - (expected if expected.ndim == 3 else expected[..., None])).max() < 0.01


# ---- formats


@pytest.mark.parametrize("suffix", ["heic", "heif", "hif", "avif", "jfif", "jpe", "jp2", "j2k", "apng", "dib", "pbm"])
def test_other_formats_are_read(folder, suffix):
    pillow_heif = pytest.importorskip("pillow_heif") if suffix.startswith("h") else None
    image = Image.fromarray(blocks(2))
    path = folder / f"image.{suffix}"
    if pillow_heif:
        pillow_heif.from_pillow(image).save(path)
    else:
        kinds = {"jfif": "JPEG", "jpe": "JPEG", "j2k": "JPEG2000", "apng": "PNG", "dib": "BMP", "pbm": "PPM"}
        image.save(path, kinds.get(suffix))
    assert np.abs(seen(path) - blocks(2)).mean() < 12


def test_missing_decoder_is_named_with_the_command_that_installs_it(folder, monkeypatch):
    brands = {"heic": b"heic", "avif": b"avif"}
    monkeypatch.setattr(images, "register_heif", lambda: False)
    monkeypatch.setattr(images.features, "check", lambda name: False)
    monkeypatch.setattr(images, "_known_formats", lambda: ["JPEG"])
    for name, command in (("heic", "pip install pillow-heif"), ("avif", "pip install --upgrade pillow")):
        (folder / f"a.{name}").write_bytes(b"\0\0\0\x1cftyp" + brands[name] + bytes(40))
        with pytest.raises(ImageError, match=f"a.{name} is an? {name.upper()} image.*{command}"):
            read_image(folder / f"a.{name}")


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\xff\x0a", "JPEG XL"),
        (b"8BPS", "Photoshop"),
        (b"%PDF-1", "PDF"),
        (b"<svg>", "SVG"),
        (b'<?xml version="1.0"?><svg', "SVG"),
        (b"II*\0", "TIFF"),
        (b"P7\nWIDTH 3", "PAM"),
        (b"#?RADIANCE\n", "Radiance"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"FUJIFILMCCD-RAW", "raw photo"),
    ],
)
def test_format_that_is_not_read_is_named(folder, start, name):
    (folder / "a.jpg").write_bytes(start + bytes(60))
    with pytest.raises(ImageError, match=f"not an image of a known format but an? {name}.*: convert it to PNG"):
        read_image(folder / "a.jpg")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"<!DOCTYPE html><html>", "a web page: download it again"),
        (b'{"error": "not found"}', "text: download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS: type git lfs pull"),
        (b"PK\3\4", "a zip archive: unpack it"),
        (b"\x1f\x8b\x08", "an archive: unpack it"),
        (b"\0\0\0\x18ftypmp42", "a film: take a picture of it"),
        (b"\x93NUMPY", "a NumPy array: save it as PNG"),
        (b"\0\5\x16\7", "a file that macOS keeps beside others, without content: delete it"),
        (b"", "zero bytes only: download it again"),
        (b"\xff\xd8\xff\xf7", "a damaged JPEG, or a JPEG of another kind"),
    ],
)
def test_what_is_no_image_is_named_with_what_to_do(folder, start, words):
    (folder / "a.jpg").write_bytes(start + bytes(60))
    with pytest.raises(ImageError, match=f"not an image of a known format but {words}"):
        read_image(folder / "a.jpg")
