"""A sweep through submitit: its local executor, and a real Slurm if there is one. fake_train.py replaces train.py."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweep_project import HERE, make_project, write

from qprompt.__main__ import main
from qprompt.sweep.plan import plan
from qprompt.sweep.slurm import Element, chains, submit
from qprompt.sweep.spec import read_spec

TRAIN = "output/base2new/train_base/pets/shots_16/CoOp/tiny/seed"
SPEC = "protocol: base2new\ndatasets: [pets]\ntrainers: {CoOp: tiny}\nseeds: 1-2\nslurm: {cpus_per_task: 1}\n"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    make_project(tmp_path)
    write(tmp_path / "spec.yaml", SPEC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))
    return plan(read_spec("spec.yaml"))


def test_element_is_a_training_run_with_its_evaluations(runs):
    assert [[r.after for r in chain] for chain in chains(runs)] == [
        [None, TRAIN + "1", TRAIN + "1"],
        [None, TRAIN + "2", TRAIN + "2"],
    ]
    assert chains(runs[1:3]) == [runs[1:3]]


def test_element_skips_finished_runs_and_stops_after_a_failure(runs, monkeypatch):
    monkeypatch.setenv("FAKE_TRAIN", "once:train_base")
    element = Element("train.py")
    with pytest.raises(RuntimeError) as failure:
        element(runs[:3])
    assert [line.rpartition(": ")[2] for line in str(failure.value).splitlines()] == [
        "exit code 1",
        f"not started, {TRAIN}1 failed",
        f"not started, {TRAIN}1 failed",
    ]
    element(runs[:3])
    element(runs[:3])
    assert len(Path(f"{TRAIN}1/starts.txt").read_text().splitlines()) == 2


def test_missing_submitit_is_named(runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(["sweep", "spec.yaml", "--cluster", "slurm"]) == 2
    assert "pip install submitit" in capsys.readouterr().err


def parent_of(pid: int) -> int:
    return int(subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True).stdout)


@pytest.mark.slow
def test_preempted_elements_end_their_process_and_start_over(runs, monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    os.mkfifo("fifo")
    monkeypatch.setenv("FAKE_FIFO", "fifo")
    monkeypatch.setenv("FAKE_TRAIN", f"hang:{TRAIN}2")
    jobs = submit(read_spec("spec.yaml"), runs, Path("output/sweeps/spec"), "local")
    child = int(Path("fifo").read_text())  # waits until the second training run hangs
    os.kill(parent_of(child), signal.SIGUSR2)  # like Slurm's warning of a preemption
    assert [job.result() for job in jobs] == [None, None]
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert all(run.finished() for run in runs)
    assert len(Path(f"{TRAIN}2/starts.txt").read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True).returncode != 0,
    reason="no Slurm here: 'sinfo' does not answer",
)
def test_eight_elements_on_slurm_one_of_them_requeued(runs, monkeypatch, capsys):
    pytest.importorskip("submitit")
    os.mkfifo("fifo")
    monkeypatch.setenv("FAKE_FIFO", "fifo")
    monkeypatch.setenv("FAKE_TRAIN", f"hang:{TRAIN}3")
    spec = read_spec("spec.yaml", ["seeds=1-8"])
    eight = plan(spec)
    jobs = submit(spec, eight, Path("output/sweeps/spec"), "slurm")
    assert len(jobs) == 8
    Path("fifo").read_text()
    assert main(["sweep", "spec.yaml", "seeds=1-8", "--cluster", "slurm"]) == 2
    assert "is already in the queue" in capsys.readouterr().err
    # The element requeues itself while scancel still waits for it, so the exit code of scancel is meaningless.
    subprocess.run(["scancel", f"--signal={signal.SIGUSR2.name}", jobs[2].job_id], check=False)
    array = jobs[0].job_id.partition("_")[0]
    while subprocess.run(["squeue", "-h", f"--jobs={array}"], capture_output=True, text=True).stdout.strip():
        time.sleep(5)
    assert all(run.finished() for run in eight)
    assert len(Path(f"{TRAIN}3/starts.txt").read_text().splitlines()) == 2
