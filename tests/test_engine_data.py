"""The bundled engine's data sets, samplers, transforms and loaders."""

import pickle
import random
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from qprompt.engine import activate
from qprompt.errors import UserError

if activate().name != "bundled":
    pytest.skip("tests of the bundled engine", allow_module_level=True)

from dassl.data import DataManager, DatasetWrapper  # noqa: E402
from dassl.data.data_manager import build_data_loader  # noqa: E402
from dassl.data.datasets import DatasetBase, Datum  # noqa: E402
from dassl.data.samplers import build_sampler  # noqa: E402
from dassl.data.transforms import build_transform  # noqa: E402
from dassl.data.transforms.transforms import AVAI_CHOICES  # noqa: E402
from dassl.utils import set_random_seed  # noqa: E402
from engine_toys import engine_cfg, pictures  # noqa: E402


def epochs(cfg, items, count=2):
    """Return the order and the pixels of `count` epochs after seeding, and the next global random numbers.

    Before the last epoch another one is started and abandoned.
    """
    set_random_seed(4)
    loader = build_data_loader(cfg, "RandomSampler", items, batch_size=8, tfm=build_transform(cfg))
    out = []
    for epoch in range(count):
        if epoch == count - 1:
            next(iter(loader))
        out += [(batch["index"], batch["img"]) for batch in loader]
    assert loader.persistent_workers == (loader.num_workers > 0)
    return torch.cat([index for index, _ in out]), torch.cat([image for _, image in out]), torch.rand(2)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(tmp_path, workers, monkeypatch):
    monkeypatch.setattr("dassl.data.data_manager._num_workers", lambda cfg: cfg.DATALOADER.NUM_WORKERS)
    transforms = ("random_resized_crop", "random_flip", "randaugment2", "cutout", "gaussian_noise", "normalize")
    items = pictures(tmp_path)
    with_none = epochs(engine_cfg(tmp_path, tmp_path, INPUT__TRANSFORMS=transforms), items)
    cfg = engine_cfg(tmp_path, tmp_path, INPUT__TRANSFORMS=transforms, DATALOADER__NUM_WORKERS=workers)
    for a, b in zip(with_none, epochs(cfg, items), strict=True):
        assert torch.equal(a, b)


def test_augmentation_differs_between_epochs_and_keeps_the_global_random_states(tmp_path):
    items = pictures(tmp_path, classes=1)
    order, images, _ = epochs(engine_cfg(tmp_path, tmp_path), items)
    assert sorted(order[:8].tolist()) == sorted(order[8:].tolist()) == list(range(8))
    first, second = images[:8][order[:8].argsort()], images[8:][order[8:].argsort()]
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    cfg = engine_cfg(tmp_path, tmp_path)
    wrapper = DatasetWrapper(cfg, items, transform=build_transform(cfg), is_train=True)
    set_random_seed(4)
    expected = random.random(), np.random.get_state()[1].tolist(), torch.rand(1)  # noqa: NPY002
    set_random_seed(4)
    wrapper[3]
    assert (random.random(), np.random.get_state()[1].tolist(), torch.rand(1)) == expected  # noqa: NPY002


def test_dataset_wrapper_options(tmp_path):
    items = pictures(tmp_path, classes=1)
    cfg = engine_cfg(tmp_path, tmp_path, DATALOADER__K_TRANSFORMS=3, DATALOADER__RETURN_IMG0=True)
    tfm = build_transform(cfg)
    item = DatasetWrapper(cfg, items, transform=[tfm, tfm], is_train=True)[5]
    assert len(item["img"]) == len(item["img2"]) == 3 and item["img0"].shape == (3, 16, 16)
    assert (item["label"], item["domain"], item["impath"], item["index"]) == (0, 1, items[5].impath, 5)
    assert DatasetWrapper(cfg, items, transform=tfm)[0]["img"].shape == (3, 16, 16)  # one view outside training
    with pytest.raises(ValueError, match="Cannot augment the image 3 times"):
        DatasetWrapper(cfg, items, is_train=True)
    plain = engine_cfg(tmp_path, tmp_path, INPUT__NO_TRANSFORM=True)
    assert build_transform(plain) is None
    assert isinstance(DatasetWrapper(plain, items, is_train=True)[0]["img"], Image.Image)


def test_unreadable_image_is_named(tmp_path):
    items = pictures(tmp_path)
    bad = items[2].impath
    with open(bad, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n cut")
    cfg = engine_cfg(tmp_path, tmp_path)
    with pytest.raises(UserError, match=f"cannot read the image {bad}"):
        DatasetWrapper(cfg, items, transform=build_transform(cfg))[2]


def test_number_of_workers_is_limited_to_processors(tmp_path):
    cfg = engine_cfg(tmp_path, tmp_path, DATALOADER__NUM_WORKERS=64)
    loader = build_data_loader(cfg, "RandomSampler", pictures(tmp_path), tfm=build_transform(cfg))
    assert 1 <= loader.num_workers < 64 and not loader.drop_last or loader.num_workers == 64


def test_empty_sets_are_refused(tmp_path):
    cfg = engine_cfg(tmp_path, tmp_path)
    with pytest.raises(UserError, match="the evaluation set of EnginePictures has no image"):
        build_data_loader(cfg, data_source=[], is_train=False)
    with pytest.raises(UserError, match="DatasetBase has no training images"):
        DatasetBase(train_x=[])


def test_labels_that_start_at_one_are_refused(tmp_path):
    items = [Datum(i.impath, i.label + 1, classname=i.classname) for i in pictures(tmp_path)]
    with pytest.raises(UserError, match=r"must be 0 to 4, but there is no image of label 0 \(labels start at 0\)"):
        DatasetBase(train_x=items)
    with pytest.raises(UserError, match="no image of label 2"):
        DatasetBase(train_x=[i for i in pictures(tmp_path) if i.label != 2])


def test_datum_is_pickled_with_dassls_attributes(tmp_path):
    item = pictures(tmp_path)[9]
    assert vars(pickle.loads(pickle.dumps(item))) == vars(item)
    assert set(vars(item)) == {"_impath", "_label", "_domain", "_classname"}  # those in cached few-shot splits
    with pytest.raises(UserError, match='No file found at .*gone.png.*class "cat"'):
        Datum(str(tmp_path / "gone.png"), 0, 0, "cat")
    with pytest.raises(TypeError):
        Datum(tmp_path)


def test_splitting_by_label_and_domain(tmp_path):
    items = pictures(tmp_path)
    base = DatasetBase(train_x=items, val=items[:2], test=items)
    assert {label: len(part) for label, part in base.split_dataset_by_label(items).items()} == dict.fromkeys(
        range(4), 8
    )
    assert {domain: len(part) for domain, part in base.split_dataset_by_domain(items).items()} == {0: 16, 1: 16}
    assert base.generate_fewshot_dataset(items) is items
    assert base.generate_fewshot_dataset(items, items) == (items, items)
    base.domains = ["photo", "sketch"]
    base.check_input_domains(["photo"], ["sketch"])
    with pytest.raises(AssertionError, match="target_domains"):
        base.check_input_domains(["photo"], [])
    with pytest.raises(ValueError, match=r"belong to \['photo', 'sketch'\], but got \[cartoon\]"):
        base.is_input_domain_valid(["cartoon"])


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "rar"])
def test_archive_is_downloaded_and_extracted(tmp_path, kind):
    source = tmp_path / f"source.{kind}"
    (tmp_path / "cat.txt").write_text("meow")
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            archive.write(tmp_path / "cat.txt", "pets/cat.txt")
    else:
        with tarfile.open(source, "w:gz" if kind == "tar.gz" else "w") as archive:
            archive.add(tmp_path / "cat.txt", "pets/cat.txt")
    base, target = DatasetBase(train_x=pictures(tmp_path)), tmp_path / "data" / f"archive.{kind}"
    if kind == "rar":
        with pytest.raises(UserError, match="expected .zip, .tar or .tar.gz"):
            base.download_data(source.as_uri(), str(target), from_gdrive=False)
        return
    base.download_data(source.as_uri(), str(target), from_gdrive=False)
    assert (tmp_path / "data" / "pets" / "cat.txt").read_text() == "meow"


def test_archive_with_a_path_outside_its_folder_is_refused(tmp_path):
    source = tmp_path / "source.tar"
    (tmp_path / "cat.txt").write_text("meow")
    with tarfile.open(source, "w") as archive:
        archive.add(tmp_path / "cat.txt", "../../cat.txt")
    with pytest.raises(tarfile.FilterError):
        DatasetBase(train_x=pictures(tmp_path)).download_data(
            source.as_uri(), str(tmp_path / "a" / "b" / "x.tar"), from_gdrive=False
        )


def test_samplers_refuse_impossible_batches(tmp_path):
    items = pictures(tmp_path)
    with pytest.raises(ValueError, match="Unknown sampler type: Random"):
        build_sampler("Random", data_source=items)
    with pytest.raises(UserError, match="7 is not a multiple of the 2 domains"):
        build_sampler("RandomDomainSampler", data_source=items, batch_size=7)
    with pytest.raises(ValueError, match="batch_size=3 must be no less than n_ins=4"):
        build_sampler("RandomClassSampler", data_source=items, batch_size=3, n_ins=4)
    with pytest.raises(UserError, match="5 classes, but there are only 4"):
        build_sampler("RandomClassSampler", data_source=items, batch_size=10, n_ins=2)


def test_every_transform_returns_an_image(tmp_path, capsys):
    image = Image.open(pictures(tmp_path)[0].impath)
    for choice in AVAI_CHOICES:
        cfg = engine_cfg(tmp_path, tmp_path, INPUT__TRANSFORMS=(choice,), INPUT__GB_K=3)
        assert build_transform(cfg)(image).shape == build_transform(cfg, is_train=False)(image).shape == (3, 16, 16)
    assert build_transform(cfg, choices=("random_flip",)).transforms[1].p == 0.5
    capsys.readouterr()


def test_data_manager_prints_a_summary(tmp_path, capsys):
    options = {"DATASET__ALL_AS_UNLABELED": True, "DATASET__SOURCE_DOMAINS": ("a", "b"), "DATALOADER__NUM_WORKERS": 0}
    cfg = engine_cfg(tmp_path, tmp_path, **options)
    manager = DataManager(cfg, custom_tfm_train=build_transform(cfg), custom_tfm_test=build_transform(cfg))
    assert (manager.num_classes, manager.num_source_domains, manager.lab2cname[3]) == (4, 2, "class 3")
    assert len(manager.train_loader_u.dataset) == 32
    table = capsys.readouterr().out.split("* Using custom transform for testing\n")[1]
    assert table.splitlines() == [
        "---------  --------------",
        "Dataset    EnginePictures",
        "Source     ('a', 'b')",
        "# classes  4",
        "# train_x  20",
        "# train_u  32",
        "# val      11",
        "# test     32",
        "---------  --------------",
    ]
