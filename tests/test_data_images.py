"""Reading untrusted images: the pixels of Pillow or one error that names the file; the decode cache."""

import multiprocessing
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from trees import jpeg

from qprompt.data import decode_cache
from qprompt.data.decode_cache import DecodeCache
from qprompt.data.images import ImageError, read_image
from qprompt.errors import UserError


def pixels(image):
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tiff"])
def test_pixels_equal_those_of_pillow(tmp_path, mode, suffix):
    path = tmp_path / f"image.{suffix}"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)).convert(mode)
    try:
        image.save(path)
    except (OSError, ValueError):
        pytest.skip(f"{suffix} cannot hold {mode}")
    with Image.open(path) as plain:
        expected = plain.convert("RGB")
    got = read_image(path)
    assert got.mode == "RGB" and np.array_equal(pixels(got), pixels(expected))


def png_of(width, height):
    """A PNG with a header of this size and almost no data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


BAD = {
    "truncated": (jpeg()[:-40], "cannot be decoded: image file is truncated"),
    "header only": (jpeg()[:30], "truncated|cannot identify|not an image|cannot be decoded"),
    "empty": (b"", "is empty"),
    "text": (b"<html>404 not found</html>", "not an image of a known format"),
    "bomb": (png_of(60_000, 60_000), "refused: Image size"),
    "short": (png_of(100, 100), "cannot be decoded"),
    "program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
}


@pytest.mark.parametrize("name", BAD)
def test_error_names_the_file_and_its_fault(tmp_path, name):
    data, reason = BAD[name]
    path = tmp_path / f"{name}.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)


def test_size_limit_does_not_depend_on_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "a.png").write_bytes(png_of(15_000, 12_000))
    with pytest.raises(ImageError, match="15000 x 12000 pixels, more than the maximum of 178956970"):
        read_image(tmp_path / "a.png")


def test_paths_that_are_not_files_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for a writer
    for path, reason in (
        (tmp_path / "pipe.jpg", "not a file"),
        (tmp_path, "not a file"),
        (tmp_path / "no", "does not exist"),
    ):
        with pytest.raises(ImageError, match=reason):
            read_image(path)


class Images(torch.utils.data.Dataset):
    def __init__(self, paths, read=read_image):
        self.paths, self.read = paths, read

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return torch.from_numpy(np.array(self.read(self.paths[index])))


def test_error_of_a_worker_is_one_line(tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(jpeg()[:-40])
    with pytest.raises(ImageError) as caught:
        list(torch.utils.data.DataLoader(Images([str(path)]), num_workers=1))
    assert str(caught.value).startswith(f"{path} cannot be decoded") and "\n" not in str(caught.value)


# ---- the decode cache

SIZE = 3 * 20 * 16  # bytes of an image of trees.jpeg


@pytest.fixture
def files(tmp_path):
    paths = []
    for seed in range(6):
        paths.append(str(tmp_path / f"{seed}.jpg"))
        (tmp_path / f"{seed}.jpg").write_bytes(jpeg(seed))
    return paths


def test_cache_has_the_same_pixels_and_a_bounded_size(files):
    plain = [pixels(read_image(path)) for path in files]
    cache = DecodeCache(files, limit=4 * SIZE + 5)
    for _ in range(3):
        assert all(np.array_equal(pixels(cache.read(path)), p) for path, p in zip(files, plain, strict=True))
    assert cache.used == 4 * SIZE
    assert [cache.get(path) is not None for path in files] == [True] * 4 + [False] * 2


def test_changing_an_image_does_not_change_the_cache(files):
    cache = DecodeCache(files, limit=10 * SIZE)
    first = cache.read(files[0])
    first.paste((0, 0, 0), (0, 0, 20, 16))
    assert pixels(cache.read(files[0])).any()


def test_unknown_file_is_read_and_not_cached(files, tmp_path):
    cache = DecodeCache(files[:1], limit=10 * SIZE)
    cache.read(files[1])
    assert cache.used == 0
    os.unlink(files[1])
    with pytest.raises(ImageError, match="does not exist"):
        cache.read(files[1])


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="only forked workers share the cache")
def test_workers_share_the_cache_over_epochs(files):
    expected = [image.clone() for image in torch.utils.data.DataLoader(Images(files))]
    cache = DecodeCache(files, limit=10 * SIZE)
    loader = torch.utils.data.DataLoader(Images(files, cache.read), num_workers=2)
    first = list(loader)
    assert cache.used == len(files) * SIZE
    for path in files:
        os.unlink(path)
    second = list(loader)  # new workers, no files
    for images_of_epoch in (first, second):
        assert all(torch.equal(a, b) for a, b in zip(images_of_epoch, expected, strict=True))


def test_limit_from_config():
    assert decode_cache.for_files(["a"], 0) is None
    assert 0 <= decode_cache.default_limit() <= 4000 * decode_cache.MB
    assert decode_cache.for_files(["a"], 1 << 50) is None  # more than any system grants
