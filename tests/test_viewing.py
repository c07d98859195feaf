"""What a viewer shows is what CLIP sees: every mode, depth, profile and tag, in each format that can hold it."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
import trees
from colour_profiles import ADOBE_RGB, DISPLAY_P3, SRGB, in_srgb, profile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from qprompt.__main__ import main
from qprompt.data.decode_cache import DecodeCache
from qprompt.data.images import ImageError, pixels_of, read_image, read_with_notes
from qprompt.data.preprocessing import Preprocessing
from qprompt.data.viewing import as_viewed
from qprompt.prompt_files.pictures import batches

LOSSLESS = ("png", "tiff", "webp")
SUFFIXES = (*LOSSLESS, "jpg", "jp2", "avif", "gif", "bmp")
# Orientation tag -> what a program that ignores the tag has to have done to the pixels before it stored them.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
quick = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def seen(path):
    return np.asarray(read_image(path)).astype(int)


def save(folder, image, suffix, **options):
    path = folder / f"image.{suffix}"
    if suffix == "webp":
        options["lossless"] = True
        options["exact"] = True
    image.save(path, **options)
    return path


def noise(seed, height=5, width=7, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def blocks(seed):
    """Few large patches, which lossy formats keep nearly as they are."""
    return np.kron(noise(seed, 2, 3) // 2 + 64, np.ones((16, 16, 1), np.uint8))


# ---- depth: two different pictures stay different


@quick
@given(st.integers(0, 9), st.sampled_from(["png", "tiff", "jp2", "pgm"]), st.sampled_from(["<u2", ">u2"]))
def test_16_bit_grey_is_scaled(folder, seed, suffix, order):
    values = np.random.default_rng(seed).integers(0, 65536, (6, 9)).astype(order)
    if order == ">u2" and suffix != "tiff":
        values = values.astype("<u2")
    path = save(folder, Image.fromarray(values), suffix)
    assert np.abs(seen(path) - values[..., None] / 257).max() <= 1
    assert read_with_notes(path)[1] == ("16-bit grey scaled to 8 bits",)


@quick
@given(
    st.integers(0, 9),
    st.sampled_from(["int", "float"]),
    st.sampled_from([(0, 1), (0, 255), (0, 65535), (0, 2**31 - 1), (-1024, 3071), (-1, 1), (0, 70_000), (-0.02, 1.03)]),
)
def test_32_bit_grey_is_scaled(folder, seed, kind, limits):
    low, high = limits
    unit = np.random.default_rng(seed).random((6, 9))
    unit.flat[:2] = 0, 1
    values = low + unit * (high - low)
    if kind == "int" and limits == (0, 1):
        return
    values = np.rint(values).astype(np.int32) if kind == "int" and high > 1.1 else values.astype(np.float32)
    path = save(folder, Image.fromarray(values), "tiff")
    own = limits not in ((0, 1), (0, 255), (0, 65535), (-0.02, 1.03))
    white = 1 if high < 1.1 else high
    expected = unit * 255 if own else (values / white).clip(0, 1) * 255
    assert np.abs(seen(path) - expected[..., None]).max() <= 1
    (note,) = read_with_notes(path)[1]
    assert note.endswith("by its own least and largest value" if own else "scaled to 8 bits")


def test_unsigned_32_bits_12_bits_and_white_is_zero(folder):
    ramp = np.linspace(0, 2**32 - 1, 50).reshape(5, 10)
    path = save(folder, Image.fromarray(ramp.astype(np.uint32).view(np.int32)), "tiff")
    signed, unsigned = (bytes.fromhex(f"5301 0300 0100 0000 {kind} 0000") for kind in ("0200", "0100"))
    assert path.read_bytes().count(signed) == 1
    path.write_bytes(path.read_bytes().replace(signed, unsigned))  # Pillow writes signed numbers only
    assert np.abs(seen(path)[..., 0] - ramp / 2**32 * 255).max() <= 1
    grey = np.linspace(0, 65535, 50).reshape(5, 10).astype(np.uint16)
    path = save(folder, Image.fromarray(grey), "tiff", tiffinfo={262: 0})
    with Image.open(path) as stored:
        assert stored.tag_v2[262] == 0 and np.asarray(stored)[0, 0] == 0
    assert seen(path)[0, 0, 0] == 255 and seen(path)[-1, -1, 0] == 0
    image = Image.fromarray(grey >> 4)  # as Pillow opens 12 bits
    image.format, image.tag_v2 = "TIFF", {258: (12,)}
    assert np.asarray(as_viewed(image)[0]).max() == 255


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_by_name(folder, value):
    values = np.ones((4, 4), np.float32)
    values[2, 2] = value
    path = save(folder, Image.fromarray(values), "tiff")
    with pytest.raises(ImageError, match=r"image.tiff holds NaN or infinite values: convert it to 8 bits"):
        read_image(path)


def write_png(path, rows, width, height, bits, colour, **chunks):
    """Write a PNG of kinds that Pillow cannot write; `rows` as they are stored."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    content = [chunk(b"IHDR", header), *(chunk(kind.encode(), data) for kind, data in chunks.items())]
    content += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_is_scaled(folder, channels):
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, channels))
    values[..., 3:] = 65535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    write_png(folder / "deep.png", rows, 5, 4, 16, 2 if channels == 3 else 6)
    assert np.abs(seen(folder / "deep.png") - values[..., :3] / 257).max() <= 1


def test_dark_values_of_16_bits_are_said(folder):
    """12 bits in a format of 16, as cameras and microscopes store them: a viewer shows black, and so does CLIP."""
    path = save(folder, Image.fromarray(np.linspace(0, 4095, 50).reshape(5, 10).astype(np.uint16)), "png")
    assert read_with_notes(path)[1][1] == "nearly black: the values use less than an eighth of their range"


# ---- transparency


@quick
@given(st.integers(0, 9), st.sampled_from(["png", "tiff", "webp", "jp2"]), st.sampled_from(["RGBA", "LA"]))
def test_transparent_parts_are_on_white(folder, seed, suffix, mode):
    if mode == "LA" and suffix == "webp":
        return
    image = Image.fromarray(noise(seed, channels=4)).convert(mode)
    path = save(folder, image, suffix)
    colour = np.asarray(image.convert("RGBA")).astype(float)
    alpha = colour[..., 3:] / 255
    assert np.abs(seen(path) - (colour[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    assert read_with_notes(path)[1] == ("transparent parts put on white",)


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA", "RGBA"])
def test_cut_out_is_on_white_in_every_mode_with_alpha(mode):
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, 3:] = 90, 90, 90, 255
    image = Image.fromarray(pixels)
    image = image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)
    got = np.asarray(as_viewed(image)[0])
    assert (got[:, :3] == 255).all() and (got[:, 3:] == 90).all()


@pytest.mark.parametrize(("suffix", "kind"), [("png", "index"), ("png", "bytes"), ("gif", "index")])
def test_palette_with_transparency_is_on_white(folder, suffix, kind):
    image = Image.new("P", (6, 4), 0)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.paste(1, (3, 0, 6, 4))
    path = save(folder, image, suffix, transparency=0 if kind == "index" else bytes([0, 255]))
    got = seen(path)
    assert (got[:, :3] == 255).all() and (got[:, 3:] == (200, 100, 50)).all()


@pytest.mark.parametrize(("mode", "clear"), [("RGB", (10, 20, 30)), ("L", 10), ("I;16", 2570)])
def test_transparent_colour_of_png_is_white(folder, mode, clear):
    image = Image.fromarray(np.full((4, 6), 2570, np.uint16)) if mode == "I;16" else Image.new(mode, (6, 4), clear)
    image.paste({"RGB": (90, 90, 90), "L": 90, "I;16": 90 * 257}[mode], (3, 0, 6, 4))
    got = seen(save(folder, image, "png", transparency=clear))
    assert (got[:, :3] == 255).all() and (got[:, 3:] == 90).all()


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_transparent_colour_of_other_depths_is_white(folder, bits):
    if bits == 16:
        colours = np.zeros((4, 6, 3), ">u2")
        colours[:, :3], colours[:, 3:] = (1000, 2000, 3000), (40000, 50000, 60000)
        rows, clear = b"".join(b"\0" + row.tobytes() for row in colours), struct.pack(">3H", 1000, 2000, 3000)
        light = np.array([40000, 50000, 60000]) / 257
    else:  # level 1 beside the largest
        row = sum((1 if column < 3 else 2**bits - 1) << (bits * (7 - column)) for column in range(8))
        rows, clear, light = (b"\0" + row.to_bytes(bits, "big")) * 4, struct.pack(">H", 1), 255
    write_png(folder / "a.png", rows, 6 if bits == 16 else 8, 4, bits, 2 if bits == 16 else 0, tRNS=clear)
    got = seen(folder / "a.png")
    assert (got[:, :3] == 255).all() and np.abs(got[:, 3:] - light).max() <= 1


def test_wholly_transparent_image_is_said_and_unused_alpha_of_bmp_is_ignored(folder):
    pixels = noise(1, channels=4)
    pixels[..., 3] = 0
    path = save(folder, Image.fromarray(pixels), "png")
    assert (seen(path) == 255).all() and read_with_notes(path)[1] == ("wholly transparent: plain white",)
    image = Image.fromarray(pixels)
    image.format = "BMP"
    assert np.array_equal(np.asarray(as_viewed(image)[0]), pixels[..., :3])


# ---- orientation


@quick
@given(st.integers(0, 9), st.sampled_from(sorted(STORED)), st.sampled_from(["png", "tiff", "webp", "jpg", "avif"]))
def test_orientation_is_applied(folder, seed, orientation, suffix):
    upright, exif = blocks(seed), Image.Exif()
    exif[274] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    path = save(folder, Image.fromarray(stored), suffix, exif=exif)
    got = seen(path)
    assert got.shape == upright.shape
    assert np.abs(got - upright).mean() < (0.1 if suffix in LOSSLESS else 12)
    assert bool(read_with_notes(path)[1]) == (orientation != 1)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0" + bytes(40), b"no"])
def test_damaged_tags_are_ignored_as_viewers_do(folder, exif):
    path = save(folder, Image.fromarray(blocks(0)), "jpg", exif=exif)
    assert seen(path).shape == (32, 48, 3) and read_with_notes(path)[1] == ()


# ---- colour

PROFILES = {"P3": (2.2, DISPLAY_P3), "Adobe RGB": (2.19921875, ADOBE_RGB), "linear": (1.0, SRGB), "1.8": (1.8, SRGB)}


@quick
@given(st.integers(0, 9), st.sampled_from(sorted(PROFILES)), st.sampled_from(["png", "tiff", "webp"]), st.booleans())
def test_rgb_profile_is_converted(folder, seed, name, suffix, alpha):
    gamma, primaries = PROFILES[name]
    pixels = noise(seed, channels=4 if alpha else 3)
    pixels[..., 3:] = 128
    path = save(folder, Image.fromarray(pixels), suffix, icc_profile=profile(gamma, primaries))
    expected = in_srgb(pixels[..., :3], gamma, primaries)
    if alpha:
        expected = expected * 128 / 255 + 127
    assert np.abs(seen(path) - expected).max() <= 4
    assert "converted from its colour profile to sRGB" in read_with_notes(path)[1]


@pytest.mark.parametrize("gamma", [1.0, 1.8])
@pytest.mark.parametrize("depth", [8, 16])
def test_grey_profile_is_converted(folder, gamma, depth):
    grey = np.arange(240, dtype=np.uint16).reshape(12, 20)
    image = Image.fromarray(grey.astype(np.uint8) if depth == 8 else grey * 257)
    path = save(folder, image, "png", icc_profile=profile(gamma))
    assert np.abs(seen(path)[..., 0] - in_srgb(grey, gamma)).max() <= 2


def test_srgb_profile_changes_no_bit(folder):
    pixels = noise(3)
    for number, icc in enumerate((ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), None)):
        path = save(folder, Image.fromarray(pixels), "png", **({"icc_profile": icc} if icc else {}))
        assert np.array_equal(seen(path), pixels) and read_with_notes(path)[1] == (), number


@pytest.mark.parametrize(
    ("icc", "note"),
    [(b"no profile", "damaged colour profile"), (profile(1.8), "colour profile of another colour space")],
)
def test_unusable_profile_is_ignored_and_said(folder, icc, note):
    pixels = noise(3)
    path = save(folder, Image.fromarray(pixels), "png", icc_profile=icc)
    assert np.array_equal(seen(path), pixels) and read_with_notes(path)[1] == (f"{note} not used",)


@pytest.mark.parametrize("gamma", [1.0, 0.55, 0.45455, None])
def test_gamma_of_png_is_applied(folder, gamma):
    grey = np.arange(240, dtype=np.uint8).reshape(12, 20)
    chunks = PngImagePlugin.PngInfo()
    if gamma:
        chunks.add(b"gAMA", round(gamma * 100_000).to_bytes(4, "big"))
    path = save(folder, Image.fromarray(grey), "png", pnginfo=chunks)
    expected = 255 * (grey / 255) ** (1 / (2.2 * (gamma or 1 / 2.2)))
    assert np.abs(seen(path)[..., 0] - expected).max() <= 1


# x, y of white, red, green and blue
P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
ADOBE = (0.3127, 0.3290, 0.640, 0.330, 0.210, 0.710, 0.150, 0.060)
CODE = {"P3": 12, "sRGB": 1}


def stated(folder, image, name="image.png", **chunks):
    info = PngImagePlugin.PngInfo()
    for kind, content in chunks.items():
        info.add(kind.encode(), content)
    path = folder / name
    image.save(path, pnginfo=info)
    return path


def chromaticities(values):
    return struct.pack(">8I", *(round(value * 100_000) for value in values))


def srgb_light(pixels):
    level = np.asarray(pixels) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def shown_p3(pixels):
    light = (srgb_light(pixels) @ (np.linalg.inv(SRGB) @ DISPLAY_P3).T).clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("gamma", [0.45455, 1.0])
@pytest.mark.parametrize("values", [P3, ADOBE], ids=["P3", "Adobe"])
def test_chromaticities_of_png_are_converted(folder, values, gamma):
    pixels = noise(1)
    path = stated(
        folder, Image.fromarray(pixels), cHRM=chromaticities(values), gAMA=struct.pack(">I", round(gamma * 1e5))
    )
    primaries = DISPLAY_P3 if values is P3 else ADOBE_RGB
    if gamma == 1.0:
        light = ((pixels / 255) @ (np.linalg.inv(SRGB) @ primaries).T).clip(0, 1)
        expected = 255 * light ** (1 / 2.2)
    else:
        light = (srgb_light(pixels) @ (np.linalg.inv(SRGB) @ primaries).T).clip(0, 1)
        expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(seen(path) - expected).max() <= 3
    assert np.abs(seen(path) - pixels).max() > 8
    assert read_with_notes(path)[1] == ("converted from gamma and chromaticities of the file to sRGB",)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_cicp_of_png_precedes_everything(folder, mode):
    image = Image.fromarray(noise(2)).convert(mode)
    others = {"gAMA": struct.pack(">I", 100_000), "cHRM": chromaticities(ADOBE), "sRGB": b"\0"}
    for name, code in CODE.items():
        path = stated(folder, image, f"{name}.png", cICP=bytes([code, 13, 0, 1]), **others)
        pixels = np.asarray(image.convert("RGB"))
        expected = shown_p3(pixels) if name == "P3" and mode != "L" else pixels
        assert np.abs(seen(path) - expected).max() <= 3, name
        notes = ("converted from its colour tag to sRGB",)
        assert read_with_notes(path)[1] == (notes if name == "P3" and mode != "L" else ())


@pytest.mark.parametrize("changed", [{"sRGB": b"\0"}, {"gAMA": b""}, {"cHRM": bytes(32)}], ids=str)
def test_chromaticities_that_do_not_count(folder, changed):
    pixels = noise(1)
    chunks = {"cHRM": chromaticities(P3), "gAMA": struct.pack(">I", 45455)} | changed
    path = stated(folder, Image.fromarray(pixels), **{kind: content for kind, content in chunks.items() if content})
    assert np.array_equal(seen(path), pixels)
    damaged = changed == {"cHRM": bytes(32)}
    assert read_with_notes(path)[1] == (("damaged chromaticities not used",) if damaged else ())


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize("suffix", ["png", "avif", "heic"])
def test_high_dynamic_range_is_refused_by_name(folder, suffix, transfer, name):
    path = coloured(folder, blocks(1), suffix, 9, transfer)
    with pytest.raises(ImageError, match=rf"image.{suffix} has a high dynamic range \({name}\): convert it to sRGB"):
        read_image(path)
    assert read_image(path, "upstream").size == (48, 32)


def coloured(folder, pixels, suffix, primaries, transfer):
    """An image whose file states its primaries and transfer function by code points."""
    image = Image.fromarray(pixels)
    if suffix == "png":
        return stated(folder, image, cICP=bytes([primaries, transfer, 0, 1]))
    path = folder / f"image.{suffix}"
    if suffix == "heic":
        pytest.importorskip("pillow_heif").from_pillow(image).save(path, quality=95)
    else:
        image.save(path, quality=95)
    content = bytearray(path.read_bytes())
    start = content.index(b"colrnclx") + 8
    content[start : start + 4] = struct.pack(">HH", primaries, transfer)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["avif", "heic"])
def test_nclx_of_avif_and_heic_is_converted(folder, suffix):
    pixels = blocks(3)
    plain = seen(coloured(folder, pixels, suffix, 1, 13))
    assert read_with_notes(folder / f"image.{suffix}")[1] == ()
    path = coloured(folder, pixels, suffix, 12, 13)
    assert np.abs(seen(path) - shown_p3(plain)).max() <= 3 and np.abs(seen(path) - plain).max() > 8
    assert read_with_notes(path)[1] == ("converted from its colour tag to sRGB",)


@pytest.mark.parametrize("suffix", ["tiff", "jpg"])
def test_colours_of_cmyk_ycbcr_hsv_and_lab_are_those_of_rgb(folder, suffix):
    rgb = blocks(4)
    image = Image.fromarray(rgb)
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    spaces = {"CMYK": image.convert("CMYK"), "YCbCr": image.convert("YCbCr"), "HSV": image.convert("HSV")}
    spaces["Lab"] = ImageCms.applyTransform(image, lab)
    del spaces["Lab"].info["icc_profile"]
    for name, converted in spaces.items():
        stored = suffix == "tiff" and name != "HSV" or suffix == "jpg" and name == "CMYK"  # Adobe's inverted CMYK
        got, notes = read_with_notes(save(folder, converted, suffix)) if stored else as_viewed(converted)
        assert np.abs(np.asarray(got).astype(int) - rgb).mean() < 4, name
        assert any(name in note for note in notes), name


# ---- several frames


@pytest.mark.parametrize("suffix", ["gif", "webp", "tiff", "png", "avif", "mpo"])
def test_first_frame_is_read_and_said(folder, suffix):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green")]
    path = folder / f"frames.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert np.abs(seen(path) - (255, 0, 0)).max() <= 8
    assert read_with_notes(path)[1] == ("first of several frames or pages",)


# ---- everything at once


@quick
@given(
    seed=st.integers(0, 99),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"]),
    suffix=st.sampled_from(SUFFIXES),
    orientation=st.sampled_from(sorted(STORED)),
    icc=st.sampled_from([None, profile(1.8), profile(1.0, DISPLAY_P3), b"damaged"]),
)
def test_two_pictures_never_become_the_same(folder, seed, mode, suffix, orientation, icc):
    """Every mode, format and tag: RGB comes out, the dark half is darker, and light stays light."""
    height, width = (32, 48) if orientation < 5 else (48, 32)
    dark, light = sorted(np.random.default_rng(seed).choice(np.arange(10, 250, 40), 2, replace=False))
    grey = np.full((height, width), dark, np.uint8)
    grey[:, width // 2 :] = light
    if mode in ("I;16", "I", "F"):
        deep = {"I;16": grey.astype(np.uint16) * 257, "I": grey.astype(np.int32) * 257, "F": grey / np.float32(255)}
        image = Image.fromarray(deep[mode])
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE)
    exif = Image.Exif()
    exif[274] = orientation
    options = {"exif": exif} | ({"icc_profile": icc} if icc else {})
    path = folder / f"image.{suffix}"
    if mode in ("I;16", "I", "F") and suffix not in ("png", "tiff", "jp2"):
        return  # Pillow itself makes them white when it saves them
    try:
        image.save(path, **options)
    except (OSError, ValueError):
        return  # the format does not hold this mode
    got = read_image(path)
    assert got.mode == "RGB"
    values = np.sort(np.asarray(got.convert("L")).astype(int).ravel())
    quarter = len(values) // 4
    if mode != "1":  # halves of one bit are dithered
        assert values[-quarter:].mean() - values[:quarter].mean() > 10
        assert icc or abs(values[:quarter].mean() - dark) < 12 and abs(values[-quarter:].mean() - light) < 12


def test_check_data_counts_what_was_converted(folder, capsys):
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for number in range(20):
            grey = np.random.default_rng(1000 * ord(name[0]) + number).integers(0, 65536, (9, 9))
            Image.fromarray(grey.astype(np.uint16)).save(folder / name / f"{number}.png")
    Image.fromarray(noise(5, channels=4)).save(folder / "cat/clear.png")
    assert main(["check-data", str(folder), "ImageFolder", "--workers", "1", "--json", str(folder / "out.json")]) == 0
    kinds = "40 16-bit grey scaled to 8 bits, 1 transparent parts put on white"
    assert f"converted, so that CLIP sees what a viewer shows: {kinds}" in capsys.readouterr().out
    (report,) = json.loads((folder / "out.json").read_text())["datasets"]
    assert report["pixels"] == "viewer" and list(report["converted"].values()) == [40, 1]


# ---- the benchmark keeps upstream's bits


def test_benchmark_reads_upstreams_bits_and_other_data_what_a_viewer_shows(folder):
    for name in trees.DATASETS:
        assert pixels_of(name) == "upstream"
    assert {pixels_of(name) for name in ("ImageFolder", "ImageList", "TinyWorld", "Mine")} == {"viewer"}
    exif = Image.Exif()
    exif[274] = 6
    path = save(folder, Image.fromarray(noise(0, channels=4)), "png", exif=exif, icc_profile=profile(1.0, DISPLAY_P3))
    with Image.open(path) as plain:
        upstream = np.asarray(plain.convert("RGB"))
    assert np.array_equal(np.asarray(read_image(path, "upstream")), upstream)
    assert read_image(path).size == (5, 7)


def test_all_readers_see_the_same_pixels(folder):
    """Training with and without the decode cache, and a classifier that is given a path or a PIL image."""
    file = io.BytesIO()
    Image.fromarray(np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)).save(file, "PNG")
    (folder / "a.png").write_bytes(file.getvalue())
    path = str(folder / "a.png")
    expected = torch.from_numpy(seen(path))
    assert len(expected.unique()) > 60
    for pixels in ("viewer", "upstream"):
        cache = DecodeCache([path], 10_000, pixels)
        for _ in range(2):
            got = np.asarray(cache.read(path))
            assert np.array_equal(got, np.asarray(read_image(path, pixels)))
    (by_path,) = batches([path], Preprocessing.of_clip(8), 4)
    with Image.open(path) as image:
        (by_image,) = batches([image], Preprocessing.of_clip(8), 4)
    assert torch.equal(by_path, by_image)
