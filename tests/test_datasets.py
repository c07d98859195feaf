"""The registered Dassl data sets, their config files, and the zero-shot templates."""

import ast
import os
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
import trees
import yaml
from dassl.config import get_cfg_default
from dassl.data import DataManager
from dassl.data.datasets import DATASET_REGISTRY, build_dataset

import datasets
from qprompt.data import templates
from qprompt.data.images import ImageError
from qprompt.data.layouts import LAYOUTS
from qprompt.errors import UserError
from qprompt.training.defaults import extend_cfg
from qprompt.training.image_dataset import ImageDataset

for module in pkgutil.iter_modules(datasets.__path__):
    import_module(f"datasets.{module.name}")

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "datasets"


def cfg_for(root, name, *options):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.merge_from_list(["DATASET.ROOT", str(root), "DATASET.NAME", name, "SEED", 1, "DATALOADER.NUM_WORKERS", 0])
    cfg.merge_from_list(["INPUT.SIZE", (16, 16), "USE_CUDA", False, "VERBOSE", False, *options])
    return cfg


def test_every_data_set_has_a_config_file_and_vice_versa():
    configured = {yaml.safe_load(file.read_text())["DATASET"]["NAME"] for file in CONFIGS.glob("*.yaml")}
    assert set(LAYOUTS) | {"ImageFolder", "ImageList"} <= configured
    assert configured <= set(DATASET_REGISTRY.registered_names())
    assert len(LAYOUTS) == 15


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "ImageNetV2"])
def test_data_set_is_built(tmp_path, name):
    trees.build(tmp_path, name)
    whole = build_dataset(cfg_for(tmp_path, name, "DATASET.NUM_SHOTS", 2))
    new = build_dataset(cfg_for(tmp_path, name, "DATASET.NUM_SHOTS", 2, "DATASET.SUBSAMPLE_CLASSES", "new"))
    assert whole.num_classes == len(whole.classnames) == len(whole.lab2cname)
    if LAYOUTS[name].test_only:
        assert new.split_hash == whole.split_hash and whole.val is None
    else:
        assert new.classnames == whole.classnames[-(whole.num_classes // 2) :]
        assert len(whole.train_x) == 2 * whole.num_classes and new.split_hash != whole.split_hash
    item = whole.test[0]
    assert os.path.isfile(item.impath) and item.classname == whole.classnames[item.label]


def test_split_hash_does_not_depend_on_the_data_root(tmp_path):
    hashes = []
    for place in ("a", "b"):
        trees.build(tmp_path / place, "EuroSAT")
        hashes.append(build_dataset(cfg_for(tmp_path / place, "EuroSAT", "DATASET.NUM_SHOTS", 4)).split_hash)
    assert hashes[0] == hashes[1]


def test_evaluation_writes_nothing_to_the_data_root(tmp_path):
    folder = trees.build(tmp_path, "EuroSAT", split=False)
    before = sorted(folder.rglob("*"))
    build_dataset(cfg_for(tmp_path, "EuroSAT", "DATASET.NUM_SHOTS", 4, "DATASET.WRITE_CACHE", False))
    assert sorted(folder.rglob("*")) == before


def test_batches_are_the_same_with_and_without_the_decode_cache(tmp_path):
    trees.build(tmp_path, "EuroSAT", content=trees.jpeg())
    epochs = []
    for megabytes in (0, 1):
        options = ("DATASET.NUM_SHOTS", 2, "DATALOADER.DECODE_CACHE_MB", megabytes)
        manager = DataManager(cfg_for(tmp_path, "EuroSAT", *options), dataset_wrapper=ImageDataset)
        torch.manual_seed(0)
        epochs.append([batch["img"] for _ in range(2) for batch in manager.train_loader_x])
        cache = manager.train_loader_x.dataset.decode_cache
        assert (cache is not None) == bool(megabytes) and manager.test_loader.dataset.decode_cache is None
    assert all(torch.equal(a, b) for a, b in zip(*epochs, strict=True))
    assert cache.used == 20 * 3 * 20 * 16


def test_damaged_image_stops_a_run_and_is_named(tmp_path):
    trees.build(tmp_path, "EuroSAT", content=trees.jpeg()[:-40])
    cfg = cfg_for(tmp_path, "EuroSAT", "DATASET.NUM_SHOTS", 1)
    manager = DataManager(cfg, dataset_wrapper=ImageDataset)
    with pytest.raises(ImageError, match=r"\.jpg cannot be decoded: image file is truncated"):
        next(iter(manager.train_loader_x))


def test_custom_data(tmp_path):
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        for k in range(10):
            (tmp_path / name / f"{k}.jpg").write_bytes(trees.jpeg(k))
    (tmp_path / "names.txt").write_text("tabby_cat\nowl\n")
    folder = build_dataset(cfg_for(tmp_path, "ImageFolder", "DATASET.CLASSNAMES", str(tmp_path / "names.txt")))
    assert folder.classnames == ["tabby_cat", "owl"]
    (tmp_path / "list.csv").write_text("path,class\n0/1.jpg,cat\n0/2.jpg,cat\n1/1.jpg,owl\n1/2.jpg,owl\n")
    listed = build_dataset(cfg_for(tmp_path, "ImageList", "DATASET.LIST", "list.csv"))
    assert listed.classnames == ["cat", "owl"] and len(listed.test) == 2


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("EuroSAT", (), "EuroSAT needs a folder 'eurosat' in the data root"),
        ("ImageList", (), "DATASET.LIST '' is not a file"),
        ("ImageList", ("DATASET.LIST", "no.csv"), "DATASET.LIST 'no.csv' is not a file"),
        ("ImageFolder", ("DATASET.CLASSNAMES", "no.txt"), "DATASET.CLASSNAMES 'no.txt' cannot be read"),
        ("EuroSAT", ("DATASET.ROOT", "/no/where"), "data root '/no/where' is not a folder"),
    ],
)
def test_missing_files_are_reported_in_one_line(tmp_path, name, options, reason):
    with pytest.raises(UserError, match=reason) as caught:
        build_dataset(cfg_for(tmp_path, name, *options))
    assert "\n" not in str(caught.value)


# ---- templates


def test_templates():
    assert templates.template("OxfordPets") == "a photo of a {}, a type of pet."
    assert templates.template("MyOwn") == "a photo of a {}."
    assert templates.template("OxfordPets", "an x-ray of {}.") == "an x-ray of {}."
    assert templates.prompts(["tabby_cat"], "{} texture.") == ["tabby cat texture."]
    assert len(templates.ensemble("ImageNet")) == 7 and len(templates.ensemble("EuroSAT")) == 8


@pytest.mark.parametrize("wrong", ["a photo", "{} and {}", "{0}", "{name}", "{", "{} }"])
def test_invalid_template_is_refused(wrong):
    with pytest.raises(UserError, match="exactly one {}"):
        templates.template("EuroSAT", wrong)


@pytest.mark.skipif(not os.environ.get("QPROMPT_COOP"), reason="QPROMPT_COOP is not set")
def test_templates_equal_upstreams():
    def constants(file):
        tree = ast.parse(Path(os.environ["QPROMPT_COOP"], "trainers", file).read_text())
        for node in tree.body:
            if isinstance(node, ast.Assign):
                try:
                    yield node.targets[0].id, ast.literal_eval(node.value)
                except ValueError:
                    continue

    theirs = dict(constants("zsclip.py"))["CUSTOM_TEMPLATES"]
    assert {name: templates.template(name) for name in LAYOUTS} == theirs
    assert list(templates.IMAGENET_SELECT) == dict(constants("imagenet_templates.py"))["IMAGENET_TEMPLATES_SELECT"]
