"""What is kept of a frozen image branch, in a run and between runs: it changes no result."""

import importlib
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
import torchvision.transforms as T
from dassl.data.transforms.randaugment import RandAugment
from dassl.data.transforms.transforms import Cutout, InstanceNormalization
from toy import toy_trainer

import trainers.coop
import trainers.qcoop  # noqa: F401
from qprompt.errors import UserError
from qprompt.training.feature_loaders import parse_feature_cache
from qprompt.training.feature_store import FeatureFiles, description, key_of

RANDOM = ("TRAINER.COOP.N_CTX", 4, "INPUT.TRANSFORMS", "['random_resized_crop', 'random_flip', 'normalize']")


def run(folder, clip_file, *options, name="CoOp"):
    """(learned context, random numbers drawn afterwards, how many batches of images were encoded) of a run."""
    trainer = toy_trainer(
        folder, clip_file, name, *RANDOM, "OUTPUT_DIR", folder / f"output-{len(os.listdir(folder))}", *options
    )
    encoded, encode = [], trainer.model.image_features
    trainer.model.image_features = lambda image, prompts: encoded.append(image.dim()) or encode(image, prompts)
    trainer.train()
    return trainer.model.prompt_learner.ctx.detach(), torch.rand(3), encoded.count(4)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    return path


def kept(folder):
    return sorted(folder.glob(".features/*.features"))


def test_epochs_that_are_kept_change_nothing_and_serve_other_runs(clip_file, folder):
    off = run(folder, clip_file, "FEATURE_CACHE", "off")
    assert not kept(folder) and off[2] > 12  # 3 epochs of 4 batches, and the tests
    first = run(folder, clip_file, "FEATURE_CACHE", "epochs")
    again = run(folder, clip_file, "FEATURE_CACHE", "epochs")
    assert first[2] == 12 + 4 and again[2] == 0
    assert torch.allclose(off[0], first[0], rtol=0, atol=2e-5 * off[0].abs().max()) and torch.equal(off[1], first[1])
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert run(folder, clip_file, "FEATURE_CACHE", "epochs", name="QCoOp")[2] == 0  # the same seed draws the same views
    assert run(folder, clip_file, "FEATURE_CACHE", "epochs", "SEED", 2)[2] == 0  # the toy's seed is given apart
    assert run(folder, clip_file, "FEATURE_CACHE", "epochs", "INPUT.RRCROP_SCALE", "(0.5, 1.0)")[2] > 0


def test_transforms_of_every_kind_are_known_again(clip_file, folder):
    options = ["FEATURE_CACHE", "epochs", "OPTIM.MAX_EPOCH", 1]
    options += ["INPUT.TRANSFORMS", "['random_resized_crop', 'randaugment', 'cutout', 'instance_norm']"]
    assert run(folder, clip_file, *options)[2] == 4 + 4
    assert run(folder, clip_file, *options)[2] == 0
    assert run(folder, clip_file, *options, "INPUT.CUTOUT_LEN", 8)[2] == 4 + 4


def test_features_of_tests_serve_other_runs(clip_file, folder):
    first, second = (run(folder, clip_file) for _ in range(2))
    assert first[2] == 12 + 4 and second[2] == 12  # training views are new ones, test images are not
    assert torch.equal(first[0], second[0])
    assert run(folder, clip_file, "FEATURE_CACHE_MB", 0)[2] == 16


def test_what_changed_or_is_damaged_is_encoded_again(clip_file, folder):
    run(folder, clip_file)
    files = kept(folder)
    assert files
    for path in files:
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)
    assert run(folder, clip_file)[2] == 16
    assert run(folder, clip_file)[2] == 12
    for path in kept(folder):
        path.write_bytes(path.read_bytes()[:99])
    assert run(folder, clip_file)[2] == 16
    picture = next(folder.glob("tree-test-*.png"))
    os.utime(picture, ns=(1, 1))
    assert run(folder, clip_file)[2] == 16


def test_views_are_fixed_and_said_to_be_a_deviation(clip_file, folder, capsys):
    trainer = toy_trainer(folder, clip_file, "CoOp", *RANDOM, "FEATURE_CACHE", "2 views")
    assert "DEVIATION from the protocol: training images are 2 fixed views" in capsys.readouterr().out
    assert trainer.deviations
    data = trainer.train_loader_x.dataset
    seen = {}
    for _ in range(12):
        for batch in trainer.train_loader_x:
            for path, feature in zip(batch["impath"], batch["img"], strict=True):
                seen.setdefault(path, set()).add(tuple(feature.tolist()))
    assert len(seen) == len(data) == 24
    assert {len(views) for views in seen.values()} == {2}
    assert toy_trainer(folder, clip_file, "CoOp", *RANDOM).deviations == []


@pytest.mark.parametrize("text, parsed", [("off", ("off", 1)), ("auto", ("auto", 1)), ("8 views", ("views", 8))])
def test_settings(text, parsed):
    assert parse_feature_cache(text) == parsed


@pytest.mark.parametrize("text", ["on", "0 views", "views", "-1 views", ""])
def test_settings_that_are_none(text):
    with pytest.raises(UserError, match="off, auto, epochs or a number of views"):
        parse_feature_cache(text)


def test_files_are_bounded_and_the_oldest_goes_first(tmp_path):
    files = FeatureFiles(tmp_path, 10**6)
    for number in range(3):
        files.write(str(number), torch.full((500,), float(number)))
        os.utime(tmp_path / f"{number}.features", ns=(number, number))
    size = (tmp_path / "0.features").stat().st_size
    files.limit = 3 * size
    assert torch.equal(files.read("0"), torch.zeros(500))
    files.write("3", torch.zeros(500))
    assert files.read("0") is not None and files.read("1") is None  # 0 was used since
    files.write("large", torch.zeros(size))
    assert files.read("large") is None
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= files.limit


def test_a_folder_that_cannot_be_written_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    files = FeatureFiles(tmp_path / "file", 10_000)
    files.write("key", torch.zeros(3))
    assert files.read("key") is None


def test_keys_tell_parts_apart():
    assert key_of(["ab", "c"]) == key_of(["ab", "c"])
    assert len({key_of(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""], ["c", "ab"])}) == 5


def test_descriptions_say_what_a_value_does(tmp_path, monkeypatch):
    crop, cut = partial(T.RandomResizedCrop, 32), (Cutout(1, 16), RandAugment(2, 10), InstanceNormalization())
    assert description(T.Compose([crop(), *cut])) == description(T.Compose([crop(), *cut]))
    different = [
        cut[0],
        Cutout(2, 16),
        Cutout(1, 8),
        T.Normalize(0.5, 1),
        T.Normalize(0.5, 2),
        max,
        description,
        crop(),
    ]
    different += [crop(scale=(0.5, 1.0)), crop(scale=(0.500001, 1.0))]  # equal in T.RandomResizedCrop's own words
    assert len({description(value) for value in different}) == len(different)
    assert description(T.Lambda(lambda image: image)) is None and description(sys.stdout) is None

    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "transforms_of_mine.py"
    source.write_text("class Mine:\n    def __call__(self, image):\n        return image\n")
    mine = importlib.import_module("transforms_of_mine").Mine()
    before = description(mine)
    assert before == description(mine)
    source.write_text(source.read_text().replace("return image", "return 2 * image"))
    assert description(mine) != before


def test_descriptions_are_the_same_in_every_process():
    code = (
        "from qprompt.engine import activate; activate()\n"
        "from dassl.data.transforms.transforms import Cutout, T\n"
        "from qprompt.training.feature_store import description\n"
        "print(description([Cutout(1, 16), T.Resize(9)]).hex())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == description([Cutout(1, 16), T.Resize(9)]).hex()
