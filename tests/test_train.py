"""train.py from arguments to metrics.json, on a generated data set and a random CLIP."""

import json
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
import trees

import train
from qprompt.prompt_files import packing
from qprompt.runs.project import dataset_names, trainer_names
from qprompt.training.project import register_project


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    trees.build(folder, "EuroSAT", content=trees.jpeg())
    return folder


@pytest.fixture
def run(root, clip_file, tmp_path, monkeypatch, capsys):
    """run(trainer, output, *more) -> (exit code, stdout, stderr) of train.py on EuroSAT's tree, 2 epochs, 4 shots."""

    def call(trainer, output, *more, path=clip_file, data=root):
        flags = [word for word in more if word.startswith("--")]
        position = next((i for i, word in enumerate(more) if not word.startswith("--") and word.isupper()), len(more))
        options = ["MODEL.BACKBONE.PATH", str(path)] if path else []
        argv = ["--root", str(data), "--trainer", trainer, "--output-dir", str(tmp_path / output), "--seed", "0"]
        argv += ["--dataset-config-file", "configs/datasets/eurosat.yaml"]
        argv += [] if "--backbone" in flags else ["--backbone", "ViT-B/16"]
        argv += [*more[:position], *options, "INPUT.SIZE", "(32, 32)", "INPUT.TRANSFORMS", "['normalize']"]
        argv += ["DATASET.NUM_SHOTS", "4", "OPTIM.NAME", "sgd", "OPTIM.MAX_EPOCH", "2", "TRAINER.COOP.PREC", "fp32"]
        argv += ["DATASET.SUBSAMPLE_CLASSES", "base", "DATALOADER.NUM_WORKERS", "0", "TRAINER.COOP.N_CTX", "4"]
        return train.main(argv + list(more[position:])), *capsys.readouterr()

    monkeypatch.chdir(train.HERE)
    return call


def test_qcoop_is_trained_stored_and_evaluated_on_new_classes(run, tmp_path):
    code, out, err = run("QCoOp", "base", "TRAIN.CHECKPOINT_FREQ", "1")
    assert code == 0, err
    assert "Finish training" in out
    record = json.loads((tmp_path / "base" / "metrics.json").read_text())
    assert (record["trainer"], record["seed"], record["classes"], record["mode"]) == ("QCoOp", 0, "base", "train")
    assert record["results"]["total"] > 0
    assert record["changed"]["OPTIM.MAX_EPOCH"] == 2
    assert record["prompt"]["payload_bytes"] == 4 * 64 // 8 + 4
    assert set(record) >= {"versions", "hardware", "split_sha256", "time_s", "peak_memory_bytes", "config"}

    # The file holds exactly the values that the last checkpoint computes with.
    stored = packing.load(tmp_path / "base" / record["prompt"]["file"])
    (tensor,) = stored.values()
    checkpoint = torch.load(tmp_path / "base" / "prompt_learner" / "model.pth.tar-2", weights_only=True)
    assert torch.equal(tensor, checkpoint["state_dict"]["ctx"])
    assert len(tensor.unique()) == 2

    more = ("--eval-only", "--model-dir", str(tmp_path / "base"), "--load-epoch")
    code, out, err = run("QCoOp", "new", *more, "all", "DATASET.SUBSAMPLE_CLASSES", "new")
    assert code == 0, err
    record = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert [point["epoch"] for point in record["curve"]] == [1, 2]
    assert record["curve"][-1]["accuracy"] == record["results"]["accuracy"]
    assert record["classes"] == "new"

    code, _, err = run("QCoOp", "base", "TRAIN.CHECKPOINT_FREQ", "1")
    assert code == 2
    assert "holds a finished run" in err

    # CoOp evaluates the same prompt: the checkpoint also has a plain entry.
    code, _, err = run("CoOp", "as_coop", *more, "2", "DATASET.SUBSAMPLE_CLASSES", "new")
    assert code == 0, err
    again = json.loads((tmp_path / "as_coop" / "metrics.json").read_text())
    assert again["results"] == record["results"]


def test_zero_shot_needs_no_training(run, tmp_path):
    code, _, err = run("ZeroshotCLIP", "zs")
    assert code == 0, err
    record = json.loads((tmp_path / "zs" / "metrics.json").read_text())
    assert record["mode"] == "eval"
    assert record["results"]["total"] > 0


@pytest.mark.parametrize(
    ("trainer", "more", "words"),
    [
        ("QCoOpp", (), ["no trainer 'QCoOpp'", "Did you mean 'QCoOp'"]),
        ("", (), ["no trainer given", "--trainer", "QCoOp"]),
        ("CoOp", ("DATASET.NAME", "EuroSTA"), ["no data set 'EuroSTA'", "Did you mean 'EuroSAT'"]),
        ("CoOp", ("OPTIM.LRR", "1"), ["no config key OPTIM.LRR"]),
        ("CoOp", ("--backbone", "ViT-B/61"), ["ViT-B/61", "ViT-B/16"]),
        ("CoOp", ("--config-file", "nowhere.yaml"), ["no config file 'nowhere.yaml'"]),
        ("CoOp", ("--root", "/no/such/folder"), ["/no/such/folder", "--root"]),
        ("QCoOp", ("TRAINER.QUANT.BITS", "0"), ["bits=0"]),
        ("QCoOp", ("TRAINER.QUANT.BITS", "17"), ["bits=17"]),
        ("CoOp", ("--eval-only",), ["--model-dir"]),
        ("CoOp", ("--eval-only", "--model-dir", "/no/such/run"), ["/no/such/run"]),
        ("CoOp", ("--resume", "/no/such/run"), ["/no/such/run"]),
        ("CoOp", ("DATASET.SUBSAMPLE_CLASSES", "old"), ["all, base, new", "'old'"]),
    ],
)
def test_mistake_is_one_line_and_exit_code_2_before_any_work(run, tmp_path, trainer, more, words):
    path = None if "--backbone" in more else tmp_path / "never_read.pt"
    if path:
        path.write_bytes(b"")
    code, out, err = run(trainer, "out", *more, path=path)
    assert code == 2
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_names_are_known_without_importing_trainers_and_data_sets():
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    register_project(train.HERE)
    assert set(trainer_names(train.HERE)) >= {"QCoOp", "QMaPLe", "ZeroshotCLIP2"}
    for registry, package, names in (
        (TRAINER_REGISTRY, "trainers", trainer_names(train.HERE)),
        (DATASET_REGISTRY, "datasets", dataset_names(train.HERE)),
    ):
        registered = registry.registered_names()
        assert set(names) <= set(registered)
        assert {n for n in registered if registry.get(n).__module__.startswith(f"{package}.")} <= set(names)


@pytest.mark.parametrize(
    "argv",
    [
        ["--trainer", "QCop", "--dataset-config-file", "configs/datasets/dtd.yaml"],
        ["--trainer", "QCoOp", "--dataset-config-file", "configs/datasets/dt.yaml"],
        ["--trainer", "QCoOp", "DATASET.NAME", "DTD"],
        ["--trainer", "QCoOp", "--model-dir", "nowhere"],
        ["--trainer", "QCoOp", "DATASET.NUM_SHOTS"],
    ],
    ids=lambda argv: argv[-1],
)
def test_a_typing_mistake_is_answered_without_importing_torch(argv):
    code = "import sys, train; print(train.main(sys.argv[1:]), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=train.HERE, capture_output=True, text=True)
    assert done.stdout == "2 False\n", done.stderr


def test_without_its_packages_train_py_says_what_to_type(tmp_path):
    shutil.copy(train.HERE / "train.py", tmp_path)
    (tmp_path / "qprompt").symlink_to(train.HERE / "qprompt")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    done = subprocess.run([sys.executable, "-S", "-E", "train.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "is not installed in this Python: type 'source " in done.stderr


class Exploit:
    def __reduce__(self):
        return print, ("a program in a checkpoint was run",)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half an archive", pickle.dumps(Exploit())])
def test_broken_checkpoint_is_named(run, tmp_path, content):
    folder = tmp_path / "model" / "prompt_learner"
    folder.mkdir(parents=True)
    (folder / "model.pth.tar-2").write_bytes(content)
    code, out, err = run("CoOp", "out", "--eval-only", "--model-dir", str(tmp_path / "model"), "--load-epoch", "2")
    assert code == 2
    assert err.count("\n") == 1, err
    assert "model.pth.tar-2" in err
    assert "was run" not in out


def test_missing_epoch_error_names_an_existing_one(run, tmp_path):
    assert run("CoOp", "base")[0] == 0
    code, _, err = run("CoOp", "out", "--eval-only", "--model-dir", str(tmp_path / "base"), "--load-epoch", "7")
    assert code == 2
    assert "--load-epoch 2" in err


def test_checkpoint_of_another_width_error_names_both_shapes(run, tmp_path):
    folder = tmp_path / "model" / "prompt_learner"
    folder.mkdir(parents=True)
    torch.save({"state_dict": {"ctx": torch.zeros(4, 512)}, "epoch": 2}, folder / "model.pth.tar-2")
    code, _, err = run("CoOp", "out", "--eval-only", "--model-dir", str(tmp_path / "model"), "--load-epoch", "2")
    assert code == 2
    assert "(4, 512)" in err
    assert "(4, 64)" in err


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as end:
        train.main(["--help"])
    assert end.value.code == 0
    assert "--eval-only --model-dir" in capsys.readouterr().out


def test_a_full_gpu_ends_a_run_in_one_line_and_a_record_says_how_it_computed(run, tmp_path, monkeypatch):
    from trainers.coop import CoOp

    def full(self, batch):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total ...")

    with monkeypatch.context() as patch:
        patch.setattr(CoOp, "forward_backward", full)
        code, _, err = run("CoOp", "full")
    assert code == 2 and err.splitlines()[-1].startswith(
        "train.py: the memory of the GPU is full (tried to get 2.00 GiB more): type TEXT_MEMORY_MB 500"
    )
    code, _, err = run("CoOp", "full", "--deterministic", "TEXT_MEMORY_MB", "500")
    assert code == 0, err
    assert not torch.are_deterministic_algorithms_enabled()
    record = json.loads((tmp_path / "full" / "metrics.json").read_text())
    assert record["computed"] == {
        "augment": "cpu",
        "precision": "fp32",
        "deterministic": True,
        "text_memory_bytes": 500_000_000,
        "text_parts": 1,
    }
    assert record["changed"]["DETERMINISTIC"] is True
    assert json.loads((tmp_path / "full" / "config.json").read_text())["chosen"] == {"augment": "cpu"}
