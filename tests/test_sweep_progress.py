"""The output of a sweep, its slots, and when a recorded run counts as the same run."""

import dataclasses
import io
from pathlib import Path

import pytest
from sweep_project import make_project, write

from qprompt.errors import UserError
from qprompt.io.durations import clock
from qprompt.runs.metrics import Metrics, write_metrics
from qprompt.sweep.plan import plan
from qprompt.sweep.progress import Progress
from qprompt.sweep.slots import local_slots
from qprompt.sweep.spec import read_spec


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    monkeypatch.delenv("DATA", raising=False)
    write(
        tmp_path / "spec.yaml", "protocol: few_shot\ndatasets: [pets]\ntrainers: {CoOp: tiny, QCoOp: tiny}\nseeds: 1-2"
    )
    return plan(read_spec("spec.yaml"))


def metrics(**fields):
    known = {"mode": "train", "trainer": "CoOp", "dataset": "Pets", "seed": 1, "shots": 16, "classes": "all"}
    return Metrics(**{"results": {}, **known, **fields})


def test_terminal_shows_a_status_line(runs, tmp_path):
    terminal = Terminal()
    progress = Progress(runs, 2, tmp_path / "log", terminal)
    progress.show(2)
    assert terminal.getvalue().endswith("0/4 runs, 2 running, 0 s")
    progress.done(runs[0], metrics(results={"accuracy": 81.25}), 10.0)
    progress.failed(runs[1], "exit code 1")
    progress.show(2)
    status = terminal.getvalue().rpartition("\n")[2]
    assert status.startswith("2/4 runs, 2 running, 1 failed, ")
    assert status.endswith("about 10 s left")
    progress.close()
    assert terminal.getvalue().endswith("\r\033[K")
    log = (tmp_path / "log").read_text().splitlines()
    assert len(log) == 2
    assert "[1/4] CoOp tiny pets 16 shots seed 1: train all  81.2%  (10 s)" in log[0]


def test_time_left_distinguishes_kinds_of_runs(runs, tmp_path):
    progress = Progress(runs, 1, tmp_path / "log", io.StringIO())
    assert progress.seconds_left() is None
    progress.learn(runs[0], metrics(time_s=10))
    progress.learn(next(r for r in runs if r.trainer == "QCoOp"), metrics(time_s=30))
    assert progress.seconds_left() == 10 + 10 + 30 + 30


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01")])
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.fixture
def gpus(monkeypatch):
    """``gpus(n)``: n GPUs are visible to torch."""

    def visible(n, named=None):
        monkeypatch.setattr("torch.cuda.is_available", lambda: n > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: n)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if named is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)

    return visible


def test_gpus_are_counted_within_the_allocation(gpus):
    gpus(2, "2,3")
    assert [s.gpu for s in local_slots()] == ["2", "3"]
    assert [s.gpu for s in local_slots(None, "0,1")] == [s.gpu for s in local_slots(None, " 0, 1 ")] == ["2", "3"]
    for wrong in ("2", "0,3", "x", "-1", ""):
        with pytest.raises(UserError, match="visible GPUs are 2, 3: type --gpus 0,1"):
            local_slots(None, wrong)
    gpus(2, "GPU-a, GPU-b")
    assert [s.gpu for s in local_slots(None, "1")] == [s.gpu for s in local_slots(None, "GPU-b")] == ["GPU-b"]
    gpus(0)
    with pytest.raises(UserError, match="no visible GPU: type --gpus none"):
        local_slots(None, "0")


def test_no_gpu_hides_those_that_are_there(gpus):
    gpus(2)
    slots = local_slots(2, "none")
    assert [slot.environment()["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["", ""]


def test_amds_gpus_are_chosen_by_their_own_variable(monkeypatch, gpus):
    gpus(2)
    monkeypatch.setattr("torch.version.hip", "6.4")
    for variables, names in (
        ({}, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "4,5"}, ["4", "5"]),
        ({"CUDA_VISIBLE_DEVICES": "4,5", "HIP_VISIBLE_DEVICES": "2,3"}, ["2", "3"]),
        ({"ROCR_VISIBLE_DEVICES": "6,7", "CUDA_VISIBLE_DEVICES": "6,7"}, ["0", "1"]),  # as Slurm sets them
        ({"ROCR_VISIBLE_DEVICES": "6,7", "HIP_VISIBLE_DEVICES": "1,0"}, ["1", "0"]),
    ):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            slots = local_slots()
        assert [slot.gpu for slot in slots] == names
        for slot in slots:
            found = slot.environment()
            assert found["HIP_VISIBLE_DEVICES"] == found["CUDA_VISIBLE_DEVICES"] == slot.gpu
    hidden = local_slots(1, "none")[0].environment()
    assert hidden["HIP_VISIBLE_DEVICES"] == hidden["CUDA_VISIBLE_DEVICES"] == ""


def test_slots(monkeypatch, gpus):
    gpus(3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [s.gpu for s in local_slots(5, "0,2")] == ["0", "2", "0", "2", "0"]
    assert [s.gpu for s in local_slots(None, "GPU-a,GPU-b")] == ["GPU-a", "GPU-b"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert local_slots(1, "none")[0].environment()["OMP_NUM_THREADS"] == "7"
    with pytest.raises(UserError, match="--jobs expects 1 or more, got 0"):
        local_slots(0)


def test_key_that_the_record_lacks_had_its_default(runs):
    run = runs[0]
    old = {k: v for k, v in run.settings.config.items() if k != "OPTIM.GAMMA"}
    write_metrics(Path(run.folder), metrics(config=old))
    assert run.finished()
    now = dataclasses.replace(run.settings, config={**run.settings.config, "OPTIM.GAMMA": 0.5})
    with pytest.raises(UserError, match=r"OPTIM.GAMMA: 0.1 there, 0.5 now"):
        dataclasses.replace(run, settings=now).finished()
    write_metrics(Path(run.folder), metrics(config=old, changed={"TRAINER.GONE": 3}))
    with pytest.raises(UserError, match=r"TRAINER.GONE: 3 there, None now"):
        run.finished()


def test_feature_cache_makes_another_run_only_with_fixed_views(runs):
    run = runs[0]
    assert run.settings.config["FEATURE_CACHE"] == "epochs"
    for before, same in (("auto", True), ("off", True), ("8 views", False)):
        write_metrics(Path(run.folder), metrics(config={**run.settings.config, "FEATURE_CACHE": before}))
        if same:
            assert run.finished()
        else:
            with pytest.raises(UserError, match="FEATURE_CACHE: '8 views' there, 'epochs' now"):
                run.finished()


def test_unfinished_run_with_other_settings_is_refused(runs):
    config = {**runs[0].settings.config, "OPTIM.LR": 1.0}
    there = dataclasses.replace(runs[0].settings, config=config, changed={"TRAINER.GONE": 3})
    there.write(Path(runs[0].folder) / "config.json")
    assert runs[0].finished() is None  # nothing is lost without a checkpoint
    checkpoint = Path(runs[0].folder) / "prompt_learner/model.pth.tar-1"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    with pytest.raises(UserError, match=r"OPTIM.LR: 1.0 there, 0.002 now; TRAINER.GONE: 3 there, None now"):
        runs[0].finished()
    assert runs[1].finished() is None


@pytest.mark.parametrize("text", ["", "[1]", '{"config": '])
def test_damaged_record_is_named(runs, text):
    write(Path(runs[0].folder) / "metrics.json", text)
    with pytest.raises(UserError, match=r"metrics.json (cannot be read as|does not hold a) JSON.*delete it"):
        runs[0].finished()
