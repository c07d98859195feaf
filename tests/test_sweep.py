"""Running a sweep: order, failures, resuming, refusals, interrupts. fake_train.py takes the place of train.py."""

import contextlib
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sweep_project import HERE, make_project, write

from qprompt.__main__ import main
from qprompt.io.torch_files import read_torch_file
from qprompt.sweep import process
from qprompt.sweep.signals import Signals

SPEC = "protocol: base2new\ndatasets: [pets]\ntrainers: {CoOp: tiny}\nseeds: [1, 2]\n"
SWEEP = """
import os, sys
import qprompt.sweep.run
from qprompt.__main__ import main

os.environ["PYTHONPATH"] = "site"  # the process from which the runs are forked imports a stand-in for PyTorch there
sys.exit(main(sys.argv[1:]))
"""
TEST_NEW = "output/base2new/test_new/pets/shots_16/CoOp/tiny/seed1"


@pytest.fixture
def project(tmp_path, monkeypatch):
    make_project(tmp_path)
    write(tmp_path / "spec.yaml", SPEC)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "DATA", "FAKE_TRAIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sweep(capfd, monkeypatch):
    """``sweep("--retry", "seeds=1", fake="fail:seed1")`` -> exit code, everything printed."""

    def call(*words, fake=""):
        with monkeypatch.context() as patch:
            patch.setenv("FAKE_TRAIN", fake)
            code = main(["sweep", "spec.yaml", *words])
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return call


@contextlib.contextmanager
def hanging_sweep(project, part, ignored=""):
    """A sweep in a separate process, in which runs in folders with `part` hang: (process, id of the first that hangs).

    `ignored`: signals that are ignored when it starts, e.g. "INT" like for `cmd &` in a shell without job control.
    """
    os.mkfifo(project / "fifo")
    write(project / "site/torch.py", "def set_num_threads(number): ...")
    env = {**os.environ, "PYTHONPATH": str(HERE.parent), "FAKE_TRAIN": f"hang:{part}", "FAKE_FIFO": "fifo"}
    sweep = [sys.executable, "-c", SWEEP, "sweep", "spec.yaml", "--jobs", "1", "--gpus", "none"]
    command = ["bash", "-c", f"trap '' {ignored or 'USR1'}; exec \"$@\"", "-", *sweep]

    def hang_up_as_usual():  # the tests may run under nohup, and bash cannot undo that
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    options = {"cwd": project, "env": env, "stdout": subprocess.PIPE, "text": True, "preexec_fn": hang_up_as_usual}
    with subprocess.Popen(command, **options) as process:
        try:
            yield process, int(first_line(project / "fifo", process))
        finally:
            process.kill()  # a failing test must not wait for it


def first_line(fifo: Path, process: subprocess.Popen) -> str:
    """Wait for a line in a named pipe, or for the process to end: then nobody will write one."""
    pipe = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while not select.select([pipe], [], [], 0.2)[0]:
            assert process.poll() is None, process.stdout.read()
        return os.read(pipe, 100).decode()
    finally:
        os.close(pipe)


def starts(folder: Path) -> int:
    return len((folder / "starts.txt").read_text().splitlines())


def test_second_start_skips_all_runs(sweep, project):
    code, out = sweep("--jobs", "2")
    assert code == 0, out
    assert "all 6 runs are finished" in out
    assert "\r" not in out  # no status line without a terminal
    folders = list((project / "output/base2new").glob("*/pets/shots_16/CoOp/tiny/seed*"))
    assert len(folders) == 6
    code, out = sweep()
    assert (code, "6 already finished" in out) == (0, True)
    assert all(starts(f) == 1 for f in folders)
    assert "all 6 runs are finished" in (project / "output/sweeps/spec/sweep.log").read_text()
    record = json.loads((project / "output/sweeps/spec/sweep.json").read_text())
    assert [r["state"] for r in record["runs"]] == ["finished"] * 6


def test_other_settings_in_the_same_folder_are_refused_with_the_difference(sweep, project):
    assert sweep("seeds=1")[0] == 0
    code, out = sweep("settings={OPTIM.LR: 0.1}")
    assert code == 2
    assert out.count("\n") == 1
    assert "OPTIM.LR: 0.002 there, 0.1 now" in out
    assert not (project / "output/base2new/train_base/pets/shots_16/CoOp/tiny/seed2").exists()
    code, out = sweep("load_epoch=all")
    assert (code, "--load-epoch: 7 there, 'all' now" in out) == (2, True)


def test_setting_that_was_removed_from_the_spec_is_a_difference(sweep, project):
    assert sweep("settings={OPTIM.GAMMA: 0.5}")[0] == 0
    code, out = sweep()
    assert (code, "OPTIM.GAMMA: 0.5 there, 0.1 now" in out) == (2, True)


def test_failures_are_listed_with_the_last_lines_of_their_logs(sweep, project):
    code, out = sweep(fake="fail:train_base/pets/shots_16/CoOp/tiny/seed1")
    assert code == 1
    assert "RuntimeError: it broke here" in out
    assert "3 of 6 runs failed" in out  # the training run and the two evaluations that need it
    code, out = sweep()
    assert (code, "3 already finished" in out) == (0, True)


def test_a_run_that_ends_before_it_opens_its_log_is_a_failure(project, sweep, monkeypatch):
    def dies(*given):  # as for lack of memory
        ended = multiprocessing.get_context("fork").Process(target=os._exit, args=(1,))
        ended.start()
        return ended

    monkeypatch.setattr(process, "start", dies)
    code, out = sweep("seeds=1", "--jobs", "1")
    assert code == 1 and "3 of 3 runs failed" in out and "exit code 1" in out


def test_retry_runs_each_failure_once_more(sweep, project):
    code, out = sweep("--retry", fake="once:seed1")
    assert code == 0, out
    assert starts(project / TEST_NEW) == 2
    code, out = sweep("--retry", "output=other", fake="crash:train_base")
    assert (code, "ended by SIGKILL" in out) == (1, True)


def test_wrong_settings_are_not_retried(sweep, project):
    assert sweep("--retry", fake="mistake:test_new")[0] == 1
    assert starts(project / TEST_NEW) == 1


def test_dry_run_prints_commands_that_a_shell_can_run(sweep, project):
    code, out = sweep("--dry-run", "seeds=1", "settings={TRAINER.COOP.CTX_INIT: a photo of a}")
    assert code == 0
    assert not (project / "output").exists()
    lines = out.splitlines()
    assert len(lines) == 3
    assert "TRAINER.COOP.CTX_INIT 'a photo of a'" in lines[0]
    script = "".join(line.replace("python", sys.executable, 1) + "\n" for line in lines)
    subprocess.run(["bash", "-ec", script], cwd=project, check=True, capture_output=True)
    code, out = sweep("--dry-run", "seeds=1", "settings={TRAINER.COOP.CTX_INIT: a photo of a}")
    assert all(line.startswith("# finished: ") for line in out.splitlines())


def test_unknown_config_key_stops_before_the_first_run(sweep, project):
    code, out = sweep("settings={OPTIM.LRR: 1}")
    assert (code, out.count("\n"), "Did you mean 'OPTIM.LR'" in out) == (2, 1, True)
    assert not (project / "output").exists()


def test_each_process_gets_its_gpu_and_its_share_of_cores(sweep, project, monkeypatch):
    monkeypatch.setattr("qprompt.sweep.slots.visible_gpus", lambda: ["1", "2", "7", "3", "4", "5"])
    assert sweep("--gpus", "3,5")[0] == 0
    seen = [json.loads(f.read_text()) for f in project.glob("output/base2new/**/starts.txt")]
    assert {s["CUDA_VISIBLE_DEVICES"] for s in seen} == {"3", "5"}
    cores = len(os.sched_getaffinity(0))
    assert {s["OMP_NUM_THREADS"] for s in seen} == {str(max(1, cores // 2))}


@pytest.mark.parametrize(
    ("number", "ignored"),
    [
        pytest.param(signal.SIGTERM, "", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "", marks=pytest.mark.slow),
        (signal.SIGINT, "INT"),
    ],
)
def test_interrupt_ends_the_processes_and_the_next_start_resumes(sweep, project, number, ignored):
    with hanging_sweep(project, "train_base/pets/shots_16/CoOp/tiny/seed2", ignored) as (process, child):
        process.send_signal(number)
        out, _ = process.communicate(timeout=240)
    assert process.returncode == 130, out
    assert "interrupted" in out
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    code, out = sweep()
    assert code == 0, out
    assert "3 already finished" in out
    assert starts(project / "output/base2new/train_base/pets/shots_16/CoOp/tiny/seed2") == 2


def test_closing_the_terminal_does_not_end_a_sweep_under_nohup():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        with Signals() as signals:
            for number in before:
                os.kill(os.getpid(), number)
            signals.wait(60)
            assert signals.stops == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_second_process_of_the_same_sweep_is_refused(sweep, project):
    with hanging_sweep(project, "train_base") as (process, _):
        code, out = sweep()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=240)
    assert (code, "is already running" in out) == (2, True)


@pytest.mark.slow
def test_run_from_the_fork_server_equals_one_from_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(HERE.parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = "--seed 1 --trainer QCoOp --dataset-config-file configs/datasets/tiny_world.yaml"
    words += " --config-file configs/trainers/QCoOp/tiny.yaml"
    options = ["OPTIM.MAX_EPOCH", "2", "DATASET.SUBSAMPLE_CLASSES", "base"]
    argv = ["--root", str(tmp_path), *words.split(), "--output-dir"]

    log = tmp_path / "log.txt"
    run = process.start("train.py", [*argv, str(tmp_path / "forked"), *options], environment, log)
    run.join()
    assert run.exitcode == 0, log.read_text()
    shell = [sys.executable, "train.py", *argv, str(tmp_path / "shell"), *options]
    subprocess.run(shell, env=environment, check=True, capture_output=True)

    forked, other = (
        read_torch_file(tmp_path / name / "prompt_learner/model.pth.tar-2")["state_dict"]
        for name in ("forked", "shell")
    )
    assert forked.keys() == other.keys()
    assert all(torch.equal(forked[key], other[key]) for key in forked)
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("forked", "shell"))
    assert one["results"] == two["results"]
    assert one["hardware"] == two["hardware"]


@pytest.mark.parametrize("how", ["forkserver", "spawn"])
def test_run_is_a_separate_process_with_its_own_environment(tmp_path, monkeypatch, how):
    monkeypatch.setattr(process, "_CONTEXT", multiprocessing.get_context(how))
    script = write(
        tmp_path / "script.py",
        "import os, sys, torch\n"
        "print(os.environ['MARK'], 'HOME' in os.environ, torch.get_num_threads(), torch.cuda.is_initialized())\n"
        "print(os.getpgid(0) == os.getpid(), sys.argv[1:], __name__)\n"
        "sys.exit(7)\n",
    )
    run = process.start(str(script), ["a", "b c"], {"MARK": "x", "OMP_NUM_THREADS": "3"}, tmp_path / "log.txt")
    run.join()
    assert run.exitcode == 7
    assert (tmp_path / "log.txt").read_text() == "x False 3 False\nTrue ['a', 'b c'] __main__\n"
