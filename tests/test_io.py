"""Files that appear complete or not at all, locks that end with their process, states of random generators."""

# ruff: noqa: NPY002 (numpy's global generator is the subject)

import ast
import contextlib
import errno
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from qprompt.errors import UserError
from qprompt.io import files
from qprompt.io.files import atomic_open, disk_errors_named
from qprompt.io.locks import Locked, hold
from qprompt.io.random_state import RandomState, random_state_kept

ROOT = Path(__file__).resolve().parent.parent


def write(path, content, **options):
    with atomic_open(path, **options) as file:
        file.write(content)


@pytest.mark.parametrize("hard_links", [True, False])
def test_without_overwrite_the_first_file_stays(tmp_path, monkeypatch, hard_links):
    if not hard_links:

        def refuse(source, target):
            raise OSError("no hard links here")

        monkeypatch.setattr(files.os, "link", refuse)
    write(tmp_path / "a/x", b"first", overwrite=False)
    with pytest.raises(FileExistsError):
        write(tmp_path / "a/x", b"second", overwrite=False)
    assert (tmp_path / "a/x").read_bytes() == b"first"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    write(tmp_path / "a/x", b"third", durable=False)
    assert (tmp_path / "a/x").read_bytes() == b"third"


def test_one_of_many_writers_wins_without_overwrite(tmp_path):
    won = []

    def attempt(number):
        try:
            write(tmp_path / "x", str(number).encode(), overwrite=False)
            won.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x").read_text() == str(won[0]) and len(won) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_longest_name_of_the_file_system_is_written(tmp_path):
    write(tmp_path / ("n" * 255), b"content")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"content"]


def test_lock_is_exclusive_and_released(tmp_path):
    with hold(tmp_path / "lock"), pytest.raises(Locked), hold(tmp_path / "lock"):
        pass
    with hold(tmp_path / "lock"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), hold(tmp_path / "file/lock"):
        pass


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(_lock):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("qprompt.io.locks.FileLock.acquire", no_locks)
    for _ in range(2):
        with caplog.at_level("WARNING", "qprompt"), hold(tmp_path / "lock"):
            pass
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'lock'}: this file system has no locks: do not start the same command twice at a time."
    ] * 2


@pytest.mark.parametrize(
    ("function", "number", "written"),
    [("chmod", errno.EPERM, True), ("fsync", errno.EINVAL, True), ("fsync", errno.EIO, False)],
)
def test_what_a_drive_cannot_do_is_no_error_but_a_failing_disk_is(function, number, written, tmp_path, monkeypatch):
    def refuse(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, refuse)
    expected = contextlib.nullcontext() if written else pytest.raises(UserError, match="a: Input/output error")
    with expected, disk_errors_named(), atomic_open(tmp_path / "a") as file:
        file.write(b"all of it")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"all of it"] * written


def test_waiting_for_a_lock(tmp_path):
    order = []

    def second():
        with hold(tmp_path / "lock", wait=True):
            order.append("second")

    waiting = threading.Thread(target=second)
    with hold(tmp_path / "lock"):
        waiting.start()
        waiting.join(timeout=0.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_worker_does_not_keep_the_lock_of_a_killed_process(tmp_path):
    code = "import os, sys; from qprompt.io.locks import hold\n"
    code += "with hold(sys.argv[1]):\n"
    code += "    if os.fork(): os.kill(os.getpid(), 9)\n"
    code += "    print('worker', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"worker\n" and process.wait() == -9
        with hold(tmp_path / "lock"):  # the worker lives until its input ends
            pass


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(2).tolist()


def through_a_checkpoint(state, tmp_path):
    torch.save(state.to_checkpoint(), tmp_path / "state")
    return RandomState.from_checkpoint(torch.load(tmp_path / "state", weights_only=True))


@pytest.mark.parametrize(
    "copy",
    [
        lambda state, _: state,
        through_a_checkpoint,
        lambda state, _: RandomState.from_numbers(ast.literal_eval(repr(state.to_numbers()))),
    ],
)
def test_random_state_is_restored(tmp_path, copy):
    draw()  # gauss and randn now have a spare number each
    state = copy(RandomState.current(), tmp_path)
    expected = [draw() for _ in range(3)]
    state.restore()
    assert [draw() for _ in range(3)] == expected
    assert RandomState.current().to_numbers() != state.to_numbers()


@pytest.mark.gpu
def test_random_state_of_the_devices_is_restored(tmp_path):
    state = through_a_checkpoint(RandomState.current(), tmp_path)
    expected = torch.rand(3, device="cuda")
    state.restore()
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    with random_state_kept():
        torch.cuda.manual_seed_all(9)
    state.restore()
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    assert RandomState.current(cuda=False).cuda == []


def test_random_state_is_kept_whatever_happens():
    state = RandomState.current()
    with pytest.raises(KeyError), random_state_kept():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        draw()
        raise KeyError
    assert RandomState.current().to_numbers() == state.to_numbers()


def test_modules_that_windows_lacks_are_not_imported_on_import():
    sources = [
        ROOT / "train.py",
        *(f for name in ("qprompt", "trainers", "datasets") for f in (ROOT / name).rglob("*.py")),
    ]
    assert len(sources) > 100
    for source in sources:
        for node in ast.parse(source.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {"fcntl", "resource", "pwd", "grp", "termios"}.intersection(names), source
