"""An interrupted and resumed run gives bit-identical results."""

import json
import subprocess
import sys

import pytest
import torch
import trees

import train
from qprompt.engine import activate

if activate().name != "bundled":
    pytest.skip("the bundled engine's promises", allow_module_level=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    trees.build(folder, "EuroSAT", content=trees.jpeg())
    return folder


def arguments(root, clip_file, output, trainer):
    return [
        *("--root", str(root), "--trainer", trainer, "--output-dir", str(output), "--seed", "1"),
        *("--dataset-config-file", "configs/datasets/eurosat.yaml", "--backbone", "ViT-B/16"),
        *("MODEL.BACKBONE.PATH", str(clip_file), "INPUT.SIZE", "(32, 32)", "INPUT.TRANSFORMS"),
        "['random_resized_crop', 'random_flip', 'normalize']",  # they use all random generators
        *("DATASET.NUM_SHOTS", "8", "OPTIM.NAME", "sgd", "OPTIM.LR", "0.1", "OPTIM.MAX_EPOCH", "4"),
        *("OPTIM.WARMUP_EPOCH", "1", "OPTIM.WARMUP_TYPE", "constant", "OPTIM.WARMUP_CONS_LR", "1e-3"),
        *("DATALOADER.TRAIN_X.BATCH_SIZE", "16", "DATALOADER.NUM_WORKERS", "0", "TRAIN.CHECKPOINT_FREQ", "1"),
        *("TRAINER.COOP.PREC", "fp32", "TRAINER.COOP.N_CTX", "4", "TRAINER.QUANT.BITS", "2"),
        *("TRAINER.QUANT.MIN_INTERVAL", "2", "TRAINER.QUANT.KL_THRESHOLD", "0"),  # the levels are fitted again
    ]


def last_checkpoint(output):
    return torch.load(output / "prompt_learner" / "model.pth.tar-4", weights_only=True)


@pytest.fixture(scope="module")
def whole(root, clip_file, tmp_path_factory):
    """The output folder of an uninterrupted run."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(train.HERE)
        assert train.main(arguments(root, clip_file, output, "QCoOp")) == 0
    return output


def assert_same(output, whole):
    ours, theirs = last_checkpoint(output), last_checkpoint(whole)
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for key, tensor in theirs["state_dict"].items():
        other = ours["state_dict"][key]
        assert torch.equal(tensor, other) if isinstance(tensor, torch.Tensor) else tensor == other, key
    for name in ("prompt_learner/prompt.qprompt", "quantization.npz"):
        assert (output / name).read_bytes() == (whole / name).read_bytes(), name
    records = [json.loads((folder / "metrics.json").read_text()) for folder in (output, whole)]
    assert records[0]["results"] == records[1]["results"]
    assert records[0]["prompt"] == records[1]["prompt"]
    assert records[0]["prompt"]["refits"] > 0


def test_resumed_run_equals_an_uninterrupted_one(root, clip_file, whole, tmp_path, monkeypatch, capsys):
    from trainers.qcoop import QCoOp

    monkeypatch.chdir(train.HERE)
    after_epoch = QCoOp.after_epoch

    def interrupt(self):
        after_epoch(self)
        if self.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(QCoOp, "after_epoch", interrupt)
        assert train.main(arguments(root, clip_file, tmp_path / "cut", "QCoOp")) == 130
    assert "resumes the run" in capsys.readouterr().err
    assert not (tmp_path / "cut" / "metrics.json").exists()
    exact = (
        "FEATURE_CACHE",
        "off",
        "FEATURE_CACHE_MB",
        "5",
        "DATALOADER.DECODE_CACHE_MB",
        "1",
    )  # it is still the same run
    assert train.main([*arguments(root, clip_file, tmp_path / "cut", "QCoOp"), *exact]) == 0
    assert_same(tmp_path / "cut", whole)


def test_run_names_a_full_disk_and_resumes_when_there_is_space(root, clip_file, whole, tmp_path, monkeypatch, capsys):
    resource = pytest.importorskip("resource")  # not on Windows
    monkeypatch.chdir(train.HERE)
    output, before = tmp_path / "full", resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (whole / "prompt_learner" / "model.pth.tar-1").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))  # larger files fail as on a full disk
    try:
        assert train.main(arguments(root, clip_file, output, "QCoOp")) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("train.py: ") and "model.pth.tar-1: File too large" in last
    assert not list((output / "prompt_learner").iterdir())
    assert train.main(arguments(root, clip_file, output, "QCoOp")) == 0
    assert_same(output, whole)


def test_file_in_place_of_the_checkpoint_folder_is_named(root, clip_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(train.HERE)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "prompt_learner").write_text("mine")
    assert train.main(arguments(root, clip_file, tmp_path / "out", "QCoOp")) == 2
    assert f"train.py: {tmp_path / 'out' / 'prompt_learner'}" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "out" / "prompt_learner").read_text() == "mine"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
@pytest.mark.parametrize("workers", [1, 2])
def test_results_do_not_depend_on_the_number_of_workers(root, clip_file, whole, tmp_path, monkeypatch, workers):
    monkeypatch.chdir(train.HERE)
    monkeypatch.setattr("dassl.data.data_manager._num_workers", lambda cfg: cfg.DATALOADER.NUM_WORKERS)
    settings = arguments(root, clip_file, tmp_path / "out", "QCoOp")
    assert train.main([*settings, "DATALOADER.NUM_WORKERS", str(workers)]) == 0
    assert_same(tmp_path / "out", whole)


@pytest.mark.slow
def test_killed_runs_equal_uninterrupted_ones():
    command = [sys.executable, "tools/kill_runs.py", "--kills", "6", "--scenarios", "QCoOp", "QMaPLe"]
    done = subprocess.run(command, cwd=train.HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_run_interrupted_while_it_saves_resumes_from_the_previous_checkpoint(root, clip_file, tmp_path, monkeypatch):
    import qprompt.io.files
    from trainers.coop import CoOp

    monkeypatch.chdir(train.HERE)
    replace, calls = qprompt.io.files.os.replace, []

    def killed(source, target):
        calls.append(str(target))
        if sum("model.pth.tar" in name for name in calls) > 1:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(qprompt.io.files.os, "replace", killed)
        assert train.main(arguments(root, clip_file, tmp_path / "cut", "CoOp")) == 130
    folder = tmp_path / "cut" / "prompt_learner"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint", "model.pth.tar-1"]
    epochs = []
    before_epoch = CoOp.before_epoch
    monkeypatch.setattr(CoOp, "before_epoch", lambda self: (epochs.append(self.epoch), before_epoch(self)))
    assert train.main(arguments(root, clip_file, tmp_path / "cut", "CoOp")) == 0
    assert epochs == [1, 2, 3]


def test_early_checkpoint_of_a_long_run_is_evaluated(root, clip_file, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(train.HERE)
    settings = arguments(root, clip_file, tmp_path / "eval", "QCoOp")
    how = ["--eval-only", "--model-dir", str(whole), "--load-epoch", "all"]
    assert train.main(how + settings) == 0
    curve = json.loads((tmp_path / "eval" / "metrics.json").read_text())["curve"]
    assert [point["epoch"] for point in curve] == [1, 2, 3, 4]
