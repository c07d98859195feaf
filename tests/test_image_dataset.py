"""The data set of the trainers: safe reading, a decode cache, no change to Dassl."""

import importlib
import pickle
import pkgutil
import subprocess
from pathlib import Path

import pytest
import torch
import trees
from commands import python
from dassl.data.data_manager import DatasetWrapper
from dassl.data.datasets import Datum
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY
from PIL import Image
from toy import toy_cfg, toy_trainer

import trainers
from qprompt.data.images import ImageError
from qprompt.training.image_dataset import ImageDataset, read_and_transform

ROOT = Path(__file__).resolve().parent.parent
for module in pkgutil.iter_modules(trainers.__path__):
    importlib.import_module(f"trainers.{module.name}")
NAMES = [n for n in TRAINER_REGISTRY.registered_names() if TRAINER_REGISTRY.get(n).__module__.startswith("trainers.")]
SNAPSHOT = """
import importlib, pkgutil, sys
from qprompt.engine import activate
activate()
import dassl

def snapshot():
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "dassl":
            found[name] = dict(vars(module))
            for value in vars(module).values():
                if isinstance(value, type) and value.__module__.partition(".")[0] == "dassl":
                    found[value] = dict(vars(value))
    return found

for module in list(pkgutil.walk_packages(dassl.__path__, "dassl.")):
    importlib.import_module(module.name)
before = snapshot()
for package in ("datasets", "trainers"):
    for module in pkgutil.iter_modules([package]):
        importlib.import_module(f"{package}.{module.name}")
after = snapshot()
changed = [(str(where), name) for where, names in after.items() for name, value in names.items()
           if before.get(where, {}).get(name) is not value]
print(len(before) > 40, changed)
"""


def test_imports_change_no_attribute_of_dassl():
    done = subprocess.run([python(), "-c", SNAPSHOT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True []"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_trainer_names_a_damaged_image(clip_file, tmp_path, name):
    options = ("TRAINER.MAPLE.PROMPT_DEPTH", 2, "TRAINER.IVLP.PROMPT_DEPTH_VISION", 2)
    options += ("TRAINER.IVLP.PROMPT_DEPTH_TEXT", 2, "TRAINER.VPT.PROMPT_DEPTH_VISION", 2)
    trainer = toy_trainer(tmp_path, clip_file, name, *options)
    damaged = next(tmp_path.glob("tree-test-*.png"))
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(ImageError, match=f"{damaged} cannot be decoded"):
        trainer.test()


@pytest.fixture
def items(tmp_path):
    paths = [tmp_path / f"{seed}.jpg" for seed in range(4)]
    for seed, path in enumerate(paths):
        path.write_bytes(trees.jpeg(seed))
    return [Datum(str(path), label, label % 2, f"class {label}") for label, path in enumerate(paths)]


def equal(one, other):
    """Whether two items hold the same keys and values: tensors, lists of tensors, and images without their tags."""
    if isinstance(one, Image.Image):
        return (one.mode, one.size, one.tobytes()) == (other.mode, other.size, other.tobytes())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


class OnDassl(ImageDataset):
    """ImageDataset as it is with Dassl, which has no method that reads a file."""

    __getitem__ = read_and_transform


@pytest.mark.parametrize("kind", [ImageDataset, OnDassl])
@pytest.mark.parametrize("transforms", [0, 1, 2])
def test_items_equal_dassls(clip_file, tmp_path, items, kind, transforms):
    options = ("DATALOADER.RETURN_IMG0", True, "DATALOADER.K_TRANSFORMS", 3 if transforms else 1)
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", *options)
    transform = [None, build_transform(cfg), [build_transform(cfg, is_train=False)] * 2][transforms]
    for is_train in (False, True):
        made = [k(cfg, items, transform=transform, is_train=is_train) for k in (kind, DatasetWrapper)]
        assert len(made[0]) == 4 and all(equal(made[0][k], made[1][k]) for k in range(4))


@pytest.mark.bundled_only
def test_augmentation_equals_the_engines(clip_file, tmp_path, items):
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", "INPUT.TRANSFORMS", "['random_resized_crop', 'random_flip']")
    made = [kind(cfg, items, transform=build_transform(cfg), is_train=True) for kind in (ImageDataset, DatasetWrapper)]
    views = []
    for seed in (1, 2):
        for dataset in made:
            dataset.epoch_seed = seed
        assert all(equal(made[0][k], made[1][k]) for k in range(4))
        views.append(made[0][0]["img"])
    assert not torch.equal(*views)


def test_training_images_are_decoded_once(clip_file, tmp_path, items):
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", "DATALOADER.DECODE_CACHE_MB", 1)
    training = ImageDataset(cfg, items, transform=build_transform(cfg), is_train=True)
    first = training[0]
    Path(items[0].impath).unlink()
    assert equal(training[0], first) and training.decode_cache.used == 3 * 20 * 16
    testing = ImageDataset(cfg, items, transform=build_transform(cfg))
    with pytest.raises(ImageError, match="0.jpg does not exist"):
        testing[0]


def test_pickled_data_set_has_no_cache_and_equal_items(clip_file, tmp_path, items):
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", "DATALOADER.DECODE_CACHE_MB", 1)
    training = ImageDataset(cfg, items, transform=build_transform(cfg, is_train=False), is_train=True)
    sent = pickle.loads(pickle.dumps(training))
    assert sent.decode_cache is None and equal(sent[1], training[1])


def test_workers_share_the_decode_cache(clip_file, tmp_path):
    options = ("DATALOADER.NUM_WORKERS", 1, "DATALOADER.DECODE_CACHE_MB", 1, "FEATURE_CACHE", "off")
    trainer = toy_trainer(tmp_path, clip_file, "CoOp", *options)
    loader = trainer.train_loader_x
    epochs = [{path for batch in loader for path in batch["impath"]} for _ in range(2)]
    assert len(epochs[0]) == 24 and epochs[0] == epochs[1]
    assert loader.dataset.decode_cache.used == 24 * 3 * 32 * 32  # filled by the worker
