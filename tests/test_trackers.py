"""train.py --log-to: what the trackers get, with stand-ins and, where they are installed, with the libraries."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import trees

import train
from qprompt.training.trackers import tracked

# Both record their calls in a file; they raise as the libraries do where a test asks for it.
STAND_IN = """
import json, os

def note(*call):
    with open(os.environ["CALLS"], "a") as file:
        print(json.dumps(call), file=file)
"""
WANDB = """
class Run:
    summary = type("Summary", (), {"update": staticmethod(lambda values: note("summary", values))})
    def define_metric(self, name, step_metric): note("define_metric", name, step_metric)
    def log(self, values): note("log", values)
    def finish(self, exit_code): note("finish", exit_code)

def init(project, name, config, dir):
    if os.environ.get("REFUSE"):
        raise RuntimeError("no login\\nsecond line")
    note("init", project, name, config, dir)
    return Run()
"""
MLFLOW = """
def set_experiment(name): note("set_experiment", name)
def start_run(run_name): note("start_run", run_name)
def log_params(params):
    assert len(params) <= 100
    note("log_params", params)
def log_metric(name, value, step): note("log_metric", name, value, step)
def log_metrics(values): note("log_metrics", values)
def end_run(status): note("end_run", status)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    trees.build(folder, "EuroSAT", content=trees.jpeg())
    return folder


@pytest.fixture
def run(root, clip_file, tmp_path, monkeypatch):
    def call(*flags):
        argv = ["--root", str(root), "--trainer", "QCoOp", "--output-dir", str(tmp_path / "run"), "--seed", "0"]
        argv += ["--dataset-config-file", "configs/datasets/eurosat.yaml", "--backbone", "ViT-B/16", *flags]
        argv += ["MODEL.BACKBONE.PATH", str(clip_file), "INPUT.SIZE", "(32, 32)", "INPUT.TRANSFORMS", "['normalize']"]
        argv += ["DATASET.NUM_SHOTS", "4", "OPTIM.NAME", "sgd", "OPTIM.MAX_EPOCH", "2", "TRAINER.COOP.PREC", "fp32"]
        return train.main([*argv, "DATALOADER.NUM_WORKERS", "0", "TRAINER.COOP.N_CTX", "4", "TRAIN.PRINT_FREQ", "1"])

    monkeypatch.chdir(train.HERE)
    return call


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Put the stand-ins in place; calls() -> what they were called with."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name, text in {"wandb": WANDB, "mlflow": MLFLOW}.items():
        (folder / f"{name}.py").write_text(STAND_IN + text, encoding="utf-8")
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls.jsonl"))
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    yield lambda: [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    for name in ("wandb", "mlflow"):
        sys.modules.pop(name, None)


def test_both_get_scalars_settings_and_results(run, calls, tmp_path):
    assert run("--log-to", "wandb", "--log-to", "mlflow") == 0
    record = json.loads((tmp_path / "run/metrics.json").read_text())
    found = {}
    for name, *arguments in calls():
        found.setdefault(name, []).append(arguments)
    (project, name, config, folder), *_ = found["init"]
    assert (project, name, folder) == ("qprompt", "QCoOp EuroSAT seed 0", str(tmp_path / "run"))
    assert config["OPTIM.MAX_EPOCH"] == 2 and config["TRAINER.QUANT.BITS"] == 1
    assert found["set_experiment"] == [["qprompt"]] and found["start_run"] == [["QCoOp EuroSAT seed 0"]]
    assert {key for (part,) in found["log_params"] for key in part} == set(config)
    losses = [(value, step) for name, value, step in found["log_metric"] if name == "train/loss"]
    assert len(losses) == 2 and all(math.isfinite(value) for value, _ in losses)
    logged = [values for (values,) in found["log"] if "train/loss" in values]
    assert [(values["train/loss"], values["train/step"]) for values in logged] == losses
    assert ["train/*", "train/step"] in found["define_metric"]
    (results,), (summary,) = found["log_metrics"][-1], found["summary"][-1]
    assert results == summary and results["results/accuracy"] == record["results"]["accuracy"]
    assert found["finish"] == [[0]] and found["end_run"] == [["FINISHED"]]
    assert list((tmp_path / "run/tensorboard").iterdir())  # as without


def test_a_failed_run_is_marked_as_failed(calls, tmp_path):
    trainer = SimpleNamespace(cfg=train_cfg(tmp_path), write_scalar=lambda *args: None)
    with pytest.raises(ValueError), tracked(["wandb", "mlflow"], trainer, SimpleNamespace(last={})):
        raise ValueError
    assert [call for call in calls() if call[0] in ("finish", "end_run")] == [["finish", 1], ["end_run", "FAILED"]]


def train_cfg(folder):
    from yacs.config import CfgNode

    return CfgNode({"TRAINER": {"NAME": "QCoOp"}, "DATASET": {"NAME": "Toy"}, "SEED": 1, "OUTPUT_DIR": str(folder)})


def test_a_tracker_that_refuses_is_named(run, calls, monkeypatch, capsys):
    monkeypatch.setenv("REFUSE", "1")
    assert run("--log-to", "wandb") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "train.py: --log-to wandb: no login second line"


def test_a_missing_package_is_named_first(run, tmp_path, monkeypatch, capsys):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
        assert run("--log-to", name) == 2
        message = f"--log-to {name} needs {name}, which is not installed: pip install {name}"
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_mlflow_itself(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert run("--log-to", "mlflow") == 0
    (found,) = mlflow.search_runs(experiment_names=["mine"], output_format="list")
    record = json.loads((tmp_path / "run/metrics.json").read_text())
    assert found.data.metrics["results/accuracy"] == record["results"]["accuracy"]
    assert found.data.params["OPTIM.MAX_EPOCH"] == "2" and found.info.status == "FINISHED"
    steps = mlflow.MlflowClient().get_metric_history(found.info.run_id, "train/loss")
    assert [point.step for point in steps] == sorted(point.step for point in steps) and len(steps) == 2


def test_wandb_itself_offline(run, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert run("--log-to", "wandb") == 0
    (folder,) = (tmp_path / "run/wandb").glob("offline-run-*")
    assert list(Path(folder).glob("*.wandb"))
