"""Transforms on the device give the pixels and the random state of torchvision, bit for bit."""

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from dassl.data.transforms.transforms import Cutout
from PIL import Image
from torchvision.transforms import InterpolationMode
from toy import toy_trainer

import trainers.coop
import trainers.qmaple  # noqa: F401
from qprompt.data.device_transforms import CropTransform, ImageBatch
from qprompt.data.images import read_image
from qprompt.data.resizing import columns_first
from qprompt.errors import UserError

BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR
END = [T.ToTensor(), T.Normalize([0.48, 0.46, 0.41], [0.27, 0.26, 0.28])]


def image(width, height, mode="RGB"):
    rng = np.random.default_rng([width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8)).convert(mode)


def assert_equal(transform, images, device="cpu"):
    """Compare the pixels and the state of the generator afterwards."""
    torch.manual_seed(3)
    plain, after = torch.stack([transform(each) for each in images]), torch.get_rng_state()
    torch.manual_seed(3)
    crop = CropTransform(transform)
    batch = ImageBatch([crop(each) for each in images], crop)
    assert torch.equal(torch.get_rng_state(), after)
    ours = batch.to(device)
    assert len(batch) == len(images) and ours.is_contiguous() and ours.dtype == plain.dtype
    assert torch.equal(ours.cpu(), plain)


@pytest.mark.parametrize("mode", [BICUBIC, BILINEAR])
@pytest.mark.parametrize("size", [(32, 32), (7, 9), (48, 40), (1, 1)])
def test_pixels_equal_torchvisions(size, mode):
    rng = np.random.default_rng(size[0])
    sides = np.exp(rng.uniform(0, np.log(400), (24, 2))).astype(int).tolist()  # 1 to 400 pixels, any aspect ratio
    sides += [(1, 1), (1, 400), (400, 1), (2, 300), (60, 60), size[::-1], (size[1], 90), (90, size[0])]
    images = [image(*side) for side in sides]
    crop, flip = T.RandomResizedCrop(size, scale=(0.08, 1), interpolation=mode), T.RandomHorizontalFlip()
    assert_equal(T.Compose([crop, flip, *END]), images)
    assert_equal(T.Compose([T.Resize(size, interpolation=mode), *END]), images)
    assert_equal(T.Compose([T.Resize(max(size), interpolation=mode), T.CenterCrop(size), *END[:1]]), images)


def test_large_images_are_resized_by_the_worker(monkeypatch):
    images = [image(*side) for side in ((300, 100), (100, 300), (20, 10))]
    for most in (1, 1000):
        monkeypatch.setattr("qprompt.data.device_transforms._MAX_PIXELS", most)
        for size in ((32, 32), (48, 40)):
            crop = T.Compose([T.RandomResizedCrop(size, interpolation=BICUBIC), T.RandomHorizontalFlip(), *END])
            center = T.Compose([T.Resize(max(size), interpolation=BICUBIC), T.CenterCrop(size), *END])
            for transform in (crop, center):
                assert_equal(transform, images)
                assert CropTransform(transform)(images[0]).pixels.size <= 3 * max(most, size[0] * size[1])


def test_images_of_common_sizes():
    images = [image(*side) for side in ((500, 375), (375, 500), (224, 224), (640, 427))]
    crop = T.RandomResizedCrop((224, 224), scale=(0.08, 1), interpolation=BICUBIC)
    assert_equal(T.Compose([crop, T.RandomHorizontalFlip(0.9), *END]), images)
    assert_equal(T.Compose([T.Resize(224, interpolation=BICUBIC), T.CenterCrop((224, 224)), *END]), images)


@pytest.mark.gpu
def test_pixels_of_a_gpu_equal_those_of_the_cpu():
    images = [image(*side) for side in ((500, 375), (375, 500), (30, 40))]
    crop = T.RandomResizedCrop((224, 224), interpolation=BICUBIC)
    assert_equal(T.Compose([crop, T.RandomHorizontalFlip(), *END]), images, "cuda")
    assert_equal(T.Compose([T.Resize((48, 40), interpolation=BILINEAR), T.ToTensor()]), images, "cuda")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_images_converted_to_rgb(tmp_path, mode):
    path = tmp_path / f"image.{'tiff' if mode == 'CMYK' else 'png'}"
    image(40, 30, mode).save(path)
    assert_equal(T.Compose([T.Resize((16, 16), interpolation=BICUBIC), *END]), [read_image(path), read_image(path)])


def test_order_of_passes_is_the_one_of_the_installed_pillow():
    big, small = (300, 100), (100, 100)  # height, width
    assert not columns_first(*small, (32, 32)) and not columns_first(10, 100, (32, 32))
    if int(Image.__version__.split(".")[0]) >= 13:
        assert columns_first(*big, (32, 32))


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([T.Resize((8, 8)), T.ToTensor(), Cutout()], "Cutout"),
        ([T.RandomCrop(8, padding=4), *END], "RandomCrop"),
        ([T.RandomResizedCrop(8, interpolation=InterpolationMode.NEAREST), *END], "interpolation=nearest"),
        ([T.Resize(8), *END], "Resize"),  # the size of the result varies
        ([T.Resize(8), T.CenterCrop(9), *END], "CenterCrop"),  # padded
        ([T.Resize((8, 8)), T.CenterCrop(8), *END], "CenterCrop"),
        ([T.ToTensor(), T.Resize((8, 8))], "ToTensor"),
    ],
)
def test_unsupported_transform_is_named(steps, named):
    with pytest.raises(UserError, match=f"supports .*this transform is .*{named}.*type INPUT.AUGMENT cpu"):
        CropTransform(T.Compose(steps))


RANDOM = ("INPUT.TRANSFORMS", "['random_resized_crop', 'random_flip', 'normalize']", "INPUT.INTERPOLATION", "bicubic")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("QMaPLe", ("TRAINER.MAPLE.PROMPT_DEPTH", 2, "DATALOADER.NUM_WORKERS", 1)),
        ("CoOp", ("TRAINER.COOP.N_CTX", 4, "FEATURE_CACHE", "epochs")),
        ("CoOp", ("TRAINER.COOP.N_CTX", 4, "FEATURE_CACHE", "2 views")),
    ],
)
def test_complete_runs_are_equal(clip_file, tmp_path, name, options):
    learned = []
    for where in ("cpu", "device"):
        more = ("INPUT.AUGMENT", where, "OUTPUT_DIR", tmp_path / where, "OPTIM.MAX_EPOCH", 2)
        trainer = toy_trainer(tmp_path, clip_file, name, *RANDOM, *options, *more)
        trainer.train()
        learned.append({**dict(trainer.learned()), "accuracy": trainer.test(), "next": torch.rand(2)})
    cpu, device = learned
    assert cpu.keys() == device.keys() and len(cpu) > 2
    assert cpu.pop("accuracy") == device.pop("accuracy")
    assert all(torch.equal(cpu[key], device[key]) for key in cpu)


def test_incompatible_settings_are_refused(clip_file, tmp_path):
    for options, words in (
        (("INPUT.AUGMENT", "gpu"), "auto, cpu or device; got 'gpu'"),
        (("INPUT.AUGMENT", "device", "INPUT.TRANSFORMS", "['cutout']"), "Cutout"),
        (("INPUT.AUGMENT", "device", "DATALOADER.K_TRANSFORMS", 2), "one view per image"),
    ):
        with pytest.raises(UserError, match=words):
            toy_trainer(tmp_path, clip_file, "CoOp", *RANDOM, *options)
