"""Whatever was chosen or trained on the images that are reported is said aloud."""

from types import SimpleNamespace

import pytest
import trees
from dassl.config import get_cfg_default

import train
from qprompt.runs.metrics import TOO_HIGH, Metrics, read_metrics, write_metrics
from qprompt.training.defaults import extend_cfg
from qprompt.training.leaks import leaks, leaks_of_training


def dataset(**parts):
    return SimpleNamespace(**{part: [SimpleNamespace(impath=path) for path in paths] for part, paths in parts.items()})


def config(*options):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.merge_from_list(list(options))
    return cfg


BEST = ("TEST.FINAL_MODEL", "best_val")


@pytest.mark.parametrize(
    ("options", "parts", "words"),
    [
        ((), {"val": "b", "test": "cd"}, []),
        (BEST, {"val": "b", "test": "cd"}, []),
        (BEST, {"val": "cd", "test": "cd"}, ["chosen on the 2 images"]),
        (BEST, {"val": "bc", "test": "cd"}, ["chosen on 1 of the 2 images"]),
        (BEST, {"val": "", "test": "cd"}, ["chosen on the 2 images"]),  # Dassl takes the test images
        ((*BEST, "TEST.SPLIT", "val"), {"val": "b", "test": "cd"}, ["chosen on the 1 image"]),
        (("TEST.SPLIT", "val"), {"val": "b", "test": "cd"}, []),
        ((), {"val": "b", "test": "ad"}, ["1 of the 2 images that are reported are training images"]),
    ],
    ids=str,
)
def test_leaks_are_found(options, parts, words):
    found = leaks(config(*options), dataset(train_x="a", **parts))
    assert len(found) == len(words)
    for sentence, part in zip(found, words, strict=True):
        assert part in sentence and "the accuracy is too high" in sentence


def test_a_choice_on_copies_of_what_is_reported_is_found(tmp_path):
    parts = {"train_x": ["a"], "val": ["b", "c"], "test": ["d", "e"]}
    for file, content in zip("abcde", (b"one", b"two", b"six", b"two", b"ten"), strict=True):
        (tmp_path / file).write_bytes(content)
    data = dataset(**{part: [tmp_path / file for file in files] for part, files in parts.items()})
    own = "DATASET.NAME", "ImageFolder"
    assert leaks(config(*own), data) == []
    (found,) = leaks(config(*own, *BEST), data)
    assert found.startswith("the epoch was chosen on copies of 1 of the 2 images that are reported")


TRAINED = {"DATASET": {"NAME": "ImageFolder", "ROOT": "pets", "SUBSAMPLE_CLASSES": "all"}, "TEST": {"SPLIT": "test"}}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ["in the training run, the epoch was chosen"]),
        (("TEST.SPLIT", "val"), []),
        (("DATASET.ROOT", "/elsewhere/pets"), ["in the training run"]),  # a relative root, typed in another folder
        (("DATASET.ROOT", "/elsewhere/dogs"), []),
        (("DATASET.NAME", "DTD"), []),
        (("DATASET.SUBSAMPLE_CLASSES", "new"), ["in the training run", "not the accuracy on unseen classes"]),
    ],
    ids=str,
)
def test_evaluations_repeat_the_leaks_of_training(options, words, tmp_path):
    leak = f"the epoch was chosen on the 6 images that are reported: {TOO_HIGH}"
    run = {"mode": "train", "trainer": "QCoOp", "dataset": "ImageFolder", "seed": 1, "shots": 16, "classes": "all"}
    write_metrics(tmp_path, Metrics(**run, results={}, config=TRAINED, deviations=[leak, "something else"]))
    cfg = config("DATASET.NAME", "ImageFolder", "DATASET.ROOT", "pets", *options)
    found = leaks_of_training(cfg, tmp_path)
    assert [word in sentence for word, sentence in zip(words, found, strict=True)] == [True] * len(words)


def test_nothing_is_known_of_runs_without_a_record(tmp_path):
    assert leaks_of_training(config(), tmp_path) == []


@pytest.mark.parametrize(
    "name, words", [("ImageFolder", "2 of the 3 images that are reported are copies"), ("DTD", "")]
)
def test_copies_of_training_images_are_found_in_data_of_the_user(tmp_path, name, words):
    for file, content in {"a": b"one", "b": b"two", "c": b"one", "d": b"two", "e": b"six"}.items():
        (tmp_path / file).write_bytes(content)
    parts = {part: [tmp_path / file for file in files] for part, files in {"train_x": "ab", "test": "cde"}.items()}
    found = leaks(config("DATASET.NAME", name), dataset(**parts))
    assert [words in sentence for sentence in found] == [True] * bool(words)


def test_a_run_says_and_records_it(tmp_path, clip_file, monkeypatch, capsys):
    folder = tmp_path / "data"
    for part in ("train", "val"):  # no test images: those of val are tested
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for i in range(3):
                (folder / part / name / f"{i}.jpg").write_bytes(trees.jpeg(i + 10 * len(name + part)))
    monkeypatch.chdir(train.HERE)
    argv = ["--root", str(folder), "--trainer", "QCoOp", "--seed", "0"]
    argv += ["--dataset-config-file", "configs/datasets/image_folder.yaml", "--backbone", "ViT-B/16"]
    argv += ["MODEL.BACKBONE.PATH", str(clip_file), "INPUT.SIZE", "(32, 32)", "INPUT.TRANSFORMS", "['normalize']"]
    argv += ["OPTIM.NAME", "sgd", "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0", "TRAINER.COOP.PREC", "fp32"]
    assert train.main(["--output-dir", str(tmp_path / "out"), *argv, *BEST]) == 0
    assert "Warning: The epoch was chosen on the 6 images that are reported" in capsys.readouterr().out
    (deviation,) = read_metrics(tmp_path / "out/metrics.json").deviations
    assert "the epoch was chosen on the 6 images" in deviation
    evaluation = ["--eval-only", "--model-dir", str(tmp_path / "out"), "--output-dir", str(tmp_path / "again")]
    assert train.main([*evaluation, *argv]) == 0
    (deviation,) = read_metrics(tmp_path / "again/metrics.json").deviations
    assert deviation.startswith("in the training run, the epoch was chosen on the 6 images")
