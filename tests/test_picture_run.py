"""`qprompt train` and `qprompt.fit`: from pictures to a classifier, without config files."""

import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import qprompt
from qprompt.__main__ import main
from qprompt.backbones import available_backbones
from qprompt.commands.train import _summary
from qprompt.errors import UserError
from qprompt.training.arguments import parse_args
from qprompt.training.early_checks import BACKBONES
from qprompt.training.picture_run import PictureRun

COLOURS = {"red ball": (220, 30, 30), "green leaf": (30, 200, 40), "blue sky": (30, 60, 220)}
FAST = ["--backbone", "tiny", "OPTIM.MAX_EPOCH", "3", "DATALOADER.NUM_WORKERS", "0"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with eight pictures of each of three classes, of different sizes."""
    folder, rng = tmp_path_factory.mktemp("some") / "drinks", np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(8):
            noise = rng.integers(-20, 20, (50 + 3 * i, 60, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_enough(pictures, here, capsys):
    assert main(["train", str(pictures), *FAST]) == 0
    out, err = capsys.readouterr()
    record = json.loads((here / "output/drinks/QCoOp/metrics.json").read_text())
    zero_shot = json.loads((here / "output/drinks/QCoOp/zero_shot/metrics.json").read_text())
    assert f"test accuracy  {record['results']['accuracy']:.1f}%" in out
    assert f"zero-shot CLIP: {zero_shot['results']['accuracy']:.1f}%" in out
    assert zero_shot["split_sha256"] == record["split_sha256"]
    assert "epoch [" not in out + err and "epoch [" in (here / "output/drinks/QCoOp/log.txt").read_text()
    (command,) = (line.split() for line in out.splitlines() if line.startswith("  qprompt predict"))
    assert main([*command[1:3], str(pictures / "red ball/0.png"), "--json"]) == 0
    (predicted,) = json.loads(capsys.readouterr().out)
    assert {entry["name"] for entry in predicted["classes"]} == set(COLOURS)

    assert main(["train", str(pictures), *FAST]) == 0  # started again
    assert "had finished before" in capsys.readouterr().out


def test_the_command_at_the_end_can_be_typed_for_any_folder():
    metrics = SimpleNamespace(
        results={}, backbone="tiny", shots=16, seed=1, time_s=None, accuracy=None, deviations=[], stored_bytes=68,
        prompt={"file": "prompt.qprompt"},
    )  # fmt: skip
    run = SimpleNamespace(pictures="pets", trainer="QCoOp", backbone_path="my weights.pt")
    for folder in ("my $pets", "it's", "a\nb", "plain"):
        result = SimpleNamespace(metrics=metrics, folder=Path(folder), zero_shot=metrics, already=False)
        (line,) = (line for line in _summary(run, result) if line.startswith("  qprompt predict"))
        typed = ["qprompt", "predict", f"{folder}/prompt.qprompt", "PICTURES", "--backbone-path", "my weights.pt"]
        assert shlex.split(line) == typed


def test_the_home_folder_is_known_in_every_spelling_of_an_option(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")  # shells do not replace the ~ of --out=~/run
    args = parse_args(["--output-dir=~/run", "--model-dir=~/other"])
    assert (args.output_dir, args.model_dir) == ("/home/me/run", "/home/me/other")
    assert PictureRun("pets", out="~/run").output == Path("/home/me/run")


def test_verbose_shows_the_log_and_options_may_follow_settings(pictures, here, capsys):
    assert main(["train", str(pictures), *FAST, "--trainer", "ZeroshotCLIP", "-v", "--out", "o"]) == 0
    assert "** Config **" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["QMaPLe", "QCoCoOp"])
def test_other_methods_and_a_backbone_file(method, pictures, here, capsys, clip_file):
    argv = ["train", str(pictures), "--trainer", method, "--backbone-path", str(clip_file), "--shots", "2"]
    argv += ["--no-augment", "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0"]
    depth = ["TRAINER.MAPLE.PROMPT_DEPTH", "2"] if method == "QMaPLe" else []
    assert main([*argv, *depth]) == 0, capsys.readouterr().err
    record = json.loads((here / f"output/drinks/{method}/metrics.json").read_text())
    assert record["config"]["INPUT"]["SIZE"] == [32, 32]  # of this backbone
    assert f"--backbone-path {clip_file}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "'nowhere' is not a folder, a list of pictures or the name of a data set"),
        (["oxford_pet"], "Did you mean 'oxford_pets'"),
        (["a.txt"], "expected a folder with one folder of pictures per class"),
        ([".", "--trainer", "QCop"], "Did you mean 'QCoOp'"),
        ([".", "--backbone", "ViT-B/61"], "Did you mean 'ViT-B/16'"),
        ([".", "--backbone-path", "none.pt"], "no file 'none.pt'"),
        ([".", "--shots", "-1"], "--shots is -1"),
        ([".", "--device", "gpu"], "expected cpu or cuda"),
        ([".", "OPTIM.LR"], "KEY VALUE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_before_torch_is_imported(words, message, here, capsys):
    (here / "a.txt").touch()
    code = "import sys; from qprompt.__main__ import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", *words], cwd=here, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "2 False\n", done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_names_of_backbones_are_those_that_load():
    assert list(BACKBONES) == available_backbones()


def test_unreadable_pictures_are_refused_before_weights_are_read(here, capsys):
    (here / "one/a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(here / "one/a/x.png")
    assert main(["train", "one", "--backbone", "RN50"]) == 2  # its weights are not there
    assert "expected at least 2" in capsys.readouterr().err


def test_settings_are_the_published_ones():
    words = PictureRun("tiny_world", "QMaPLe").arguments()
    assert "configs/trainers/QMaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml" in words[words.index("--config-file") + 1]
    words = PictureRun("imagenet", "QCoOp", root="DATA").arguments()
    assert "configs/trainers/QCoOp/vit_b16_ep50_ctxv1.yaml" in words[words.index("--config-file") + 1]


def fit(given, **more):
    settings = {"OPTIM.MAX_EPOCH": 2, "DATALOADER.NUM_WORKERS": 0, **more.pop("settings", {})}
    return qprompt.fit(given, backbone="tiny", settings=settings, **more)


def test_fit_returns_a_classifier_and_leaves_no_trace(pictures, here, capsys):
    random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    classifier = fit(pictures, progress=False)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert capsys.readouterr() == ("", "") and list(here.iterdir()) == []
    assert classifier.classnames == sorted(COLOURS)
    paths = [pictures / name / "0.png" for name in COLOURS]
    assert [p.label in COLOURS for p in classifier.predict(paths)] == [True] * 3
    classifier.save(here / "drinks.qprompt")
    again = qprompt.load_classifier(here / "drinks.qprompt")
    assert np.array_equal(again.predict_proba(paths), classifier.predict_proba(paths))


def test_fit_takes_pairs_and_mappings(pictures, here):
    by_class = {name: sorted((pictures / name).iterdir()) for name in COLOURS}
    pairs = [(path, name) for name, paths in by_class.items() for path in paths]
    path = pairs[0][0]
    one = fit(by_class, progress=False).predict_proba(path)
    with torch.inference_mode():  # a caller who computes without gradients
        other = fit(pairs, progress=False).predict_proba(path)
    assert np.array_equal(one, other)


def test_fit_resumes_a_run_in_its_folder_only_with_the_same_pictures(pictures, here):
    by_class = {name: sorted((pictures / name).iterdir()) for name in COLOURS}
    first = fit(by_class, out=here / "run", progress=False)
    stamp = (here / "run/metrics.json").stat().st_mtime_ns
    second = fit(by_class, out=here / "run", progress=False)
    assert stamp == (here / "run/metrics.json").stat().st_mtime_ns
    path = by_class["red ball"][0]
    assert np.array_equal(first.predict_proba(path), second.predict_proba(path))
    by_class["red ball"] = by_class["red ball"][:5]
    with pytest.raises(UserError, match="other settings"):
        fit(by_class, out=here / "run", progress=False)


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        ({}, {}, "there are no pictures"),
        ([("a.png",)], {}, "is not a pair of path and class"),
        ([(3, "cat")], {}, "is not a pair of path and class"),
        (".", {"trainer": "CoOp"}, "type trainer='QCoOp', settings={'TRAINER.QUANT.BITS': 16}"),
        (".", {"trainer": "QCop"}, "Did you mean 'QCoOp'"),
    ],
)
def test_fit_says_what_it_expects(given, more, message, here):
    with pytest.raises(UserError) as error:
        fit(given, **more)
    assert message in str(error.value)


def test_fit_stores_half_precision_as_its_message_says(pictures):
    classifier = fit(pictures, trainer="QCoOp", settings={"TRAINER.QUANT.BITS": 16}, progress=False)
    assert "1,024 bytes" in repr(classifier)


def test_summary_of_a_run_without_a_test(tmp_path):
    metrics = SimpleNamespace(
        results={}, backbone="tiny", shots=16, seed=1, time_s=None, accuracy=None, deviations=[], prompt={}
    )
    run = SimpleNamespace(pictures="pets", trainer="QCoOp")
    lines = _summary(run, SimpleNamespace(metrics=metrics, folder=tmp_path, zero_shot=metrics, already=False))
    assert "  test accuracy  not measured (TEST.NO_TEST)" in lines
