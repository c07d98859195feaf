"""Read-only file systems: a read-only mount for root, a folder without write permission for other users."""

import functools
import os
import subprocess

import pytest
import trees
from report_runs import write_base2new

import train
from qprompt.__main__ import main


@pytest.fixture
def read_only():
    """Return a function that makes a folder read-only until the test ends."""
    undo = []

    def call(folder):
        if os.geteuid():
            for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
                undo.append(functools.partial(path.chmod, 0o755))
                path.chmod(0o555)
            return
        for options in (["--bind", folder], ["-o", "remount,bind,ro"]):
            if subprocess.run(["mount", *map(str, options), str(folder)], capture_output=True).returncode:
                pytest.skip("mounting is not permitted")
            undo.append(lambda: subprocess.run(["umount", "-l", str(folder)], capture_output=True))

    yield call
    for step in undo:
        step()


@pytest.fixture
def run(clip_file, tmp_path, monkeypatch, capsys):
    """Return a function that trains QCoOp with 2 shots for 2 epochs: exit code, stdout, stderr."""

    def call(data, output, *options, dataset="eurosat"):
        argv = ["--root", str(data), "--trainer", "QCoOp", "--output-dir", str(output), "--seed", "1"]
        argv += ["--dataset-config-file", f"configs/datasets/{dataset}.yaml", "--backbone", "ViT-B/16"]
        argv += ["MODEL.BACKBONE.PATH", str(clip_file), "INPUT.SIZE", "(32, 32)", "INPUT.TRANSFORMS", "['normalize']"]
        argv += ["DATASET.NUM_SHOTS", "2", "DATALOADER.NUM_WORKERS", "0", "OPTIM.NAME", "sgd", "OPTIM.MAX_EPOCH", "2"]
        return train.main([*argv, "TRAINER.COOP.PREC", "fp32", *options]), *capsys.readouterr()

    monkeypatch.chdir(train.HERE)
    return call


def test_read_only_output_folder_is_refused_in_one_line(run, read_only, tmp_path):
    (tmp_path / "disk").mkdir()
    read_only(tmp_path / "disk")
    code, _, err = run(tmp_path, tmp_path / "disk" / "out")
    assert code == 2 and err.count("\n") == 1
    assert f"cannot write to --output-dir {tmp_path / 'disk' / 'out'}: " in err


@pytest.mark.parametrize("cache", ["auto", "epochs"])
def test_training_on_a_read_only_data_root_writes_nothing(run, read_only, tmp_path, cache):
    data = tmp_path / "data"
    trees.build(data, "EuroSAT", content=trees.jpeg())
    read_only(data)
    before = sorted(data.rglob("*"))
    prompts = []
    for output in ("one", "two"):  # neither caches few-shot draws or features; both give the same prompt
        code, out, err = run(data, tmp_path / output, "FEATURE_CACHE", cache)
        assert code == 0, err
        assert "split_fewshot" in out and "Warning: " in out and "was not written: " in out
        prompts.append((tmp_path / output / "prompt_learner" / "prompt.qprompt").read_bytes())
    assert prompts[0] == prompts[1]
    assert sorted(data.rglob("*")) == before


def test_generating_into_a_read_only_data_root_is_refused_in_one_line(run, read_only, tmp_path):
    (tmp_path / "data").mkdir()
    read_only(tmp_path / "data")
    code, _, err = run(tmp_path / "data", tmp_path / "out", dataset="tiny_world")
    assert code == 2 and err.count("\n") == 1
    assert "cannot generate TinyWorld in" in err and "Choose another folder with --root" in err


def test_reports_and_sweeps_are_refused_in_one_line(read_only, tmp_path, capsys, monkeypatch):
    runs, disk = write_base2new(tmp_path / "runs"), tmp_path / "disk"
    disk.mkdir()
    read_only(disk)
    monkeypatch.chdir(train.HERE)
    sweep = ["sweep", "configs/sweeps/tiny_world.yaml", f"root={tmp_path}", f"output={disk / 'out'}"]
    for argv in (["report", str(runs), "--out", str(disk / "out")], sweep):
        assert main(argv) == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith("qprompt: ") and str(disk) in line
