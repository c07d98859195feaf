"""Runs of released versions are resumed, evaluated and reported by this version.

tests/golden/run_VERSION contains a finished and an unfinished run of a version. These files are never regenerated.
Each release adds its own:

    python train.py (as `arguments` has it) --root data --output-dir finished      (in a folder with `trees`' EuroSAT)
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import trees

import qprompt
import train
from qprompt import __main__ as command
from qprompt.engine import activate
from qprompt.quantization import recorder
from qprompt.runs.identity import RunSettings
from qprompt.runs.metrics import read_metrics, write_metrics

RUNS = sorted(Path(__file__).parent.glob("golden/run_*"))
bundled = pytest.mark.skipif(activate().name != "bundled", reason="the bundled engine's checkpoints")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    trees.build(folder, "EuroSAT", content=trees.jpeg())
    return folder


@pytest.fixture(params=RUNS, ids=lambda run: run.name)
def old(request, tmp_path, monkeypatch):
    """A copy of the runs of one version."""
    monkeypatch.chdir(train.HERE)
    return Path(shutil.copytree(request.param, tmp_path / "runs"))


def arguments(root, output, *flags):
    return [
        *("--root", str(root), "--trainer", "QCoOp", "--output-dir", str(output), "--seed", "1"),
        *("--dataset-config-file", "configs/datasets/eurosat.yaml"),
        *("--config-file", "configs/trainers/QCoOp/tiny.yaml", *flags),
        *("DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "2", "TRAIN.CHECKPOINT_FREQ", "1"),
        *("DATALOADER.TRAIN_X.BATCH_SIZE", "8", "TRAINER.QUANT.MIN_INTERVAL", "1", "TRAINER.QUANT.KL_THRESHOLD", "0"),
    ]


@bundled
def test_unfinished_run_is_resumed(old, root, capsys):
    assert train.main(arguments(root, old / "unfinished")) == 0
    out = capsys.readouterr().out
    assert "Previous epoch: 1" in out and "epoch [2/2]" in out and "epoch [1/2]" not in out
    assert recorder.read(old / "unfinished" / "quantization.npz")["step"][0] == 0


@bundled
def test_finished_run_is_skipped_and_its_checkpoint_evaluated(old, root, tmp_path, capsys):
    assert train.main(arguments(root, old / "finished", "--skip-finished")) == 0
    assert "Skipped" in capsys.readouterr().out
    how = ("--eval-only", "--model-dir", str(old / "finished"), "--load-epoch", "2")
    assert train.main(arguments(root, tmp_path / "eval", *how)) == 0
    accuracy = [
        json.loads((f / "metrics.json").read_text())["results"]["accuracy"]
        for f in (old / "finished", tmp_path / "eval")
    ]
    assert accuracy[0] == pytest.approx(accuracy[1], abs=5)  # libraries decode JPEG differently


@bundled
def test_prompt_file_holds_the_prompt_of_the_checkpoint(old):
    from dassl.utils import load_checkpoint

    tensor = qprompt.load(old / "finished/prompt_learner/prompt.qprompt")["prompt_learner.ctx"]
    state = load_checkpoint(str(old / "finished/prompt_learner/model.pth.tar-2"))["state_dict"]
    from qprompt.prompt_files.upstream import find_prompts

    prompt = find_prompts(state).prompts["ctx"]
    assert torch.equal(tensor, prompt.fake(prompt.weight).detach())


def test_finished_run_is_reported(old, tmp_path, capsys):
    assert command.main(["report", str(old / "finished"), "--out", str(tmp_path / "report")]) == 0
    assert "QCoOp" in capsys.readouterr().out
    assert recorder.read(old / "finished" / "quantization.npz")["refit"].any()


def test_records_keep_their_format(old, tmp_path):
    text = (old / "finished" / "metrics.json").read_text()
    path = write_metrics(tmp_path, read_metrics(old / "finished" / "metrics.json"))
    assert path.read_text() == text
    for kind in ("finished", "unfinished"):
        settings = RunSettings.read(old / kind / "config.json")
        settings.write(tmp_path / "config.json")
        again, before = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, old / kind))
        assert (again["schema"], again["settings"]) == (before["schema"], before["settings"])
