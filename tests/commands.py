"""`python()`: a program that runs Python programs as `python` does, without the seconds that importing PyTorch takes.

    subprocess.run([python(), "-m", "qprompt", "report", folder], cwd=..., env=..., capture_output=True)

A server, which conftest.py starts, imports PyTorch at the first call, once for all tests and all workers of
pytest-xdist, and nothing of this project or of pytest. Each program is a fork of it with the arguments, folder,
environment variables and standard streams of its caller. `-c CODE`, `-m MODULE` and a script are understood.

Use `sys.executable` where the start itself is tested (what is imported, options and PYTHON* variables of the
interpreter, the seed of hashes) or where signals are sent: they end the caller, and then the program is killed.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

PROGRAM = "QPROMPT_TEST_PYTHON"  # the variable with the path of the program, which workers inherit
# Third-party packages that most programs import, slow ones first.
PRELOADED = ("torch", "torchvision", "yaml", "safetensors.torch")
# Other PYTHON* variables must be those of the tests, or missing.
FOLLOWED = {"PYTHONPATH", "PYTHONIOENCODING", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
OURS = {"PYTHON"}  # of scripts/, not of the interpreter


def python() -> str:
    """Return the path of the program, or of the interpreter itself where programs cannot be forked."""
    return os.environ.get(PROGRAM, sys.executable)


@contextlib.contextmanager
def started() -> Iterator[None]:
    """Within the context `python()` forks.

    Coverage is measured in new interpreters, and QPROMPT_TEST_PYTHON=python asks for them.
    """
    forks = hasattr(os, "pidfd_open") and "coverage" not in sys.modules
    forks &= len(os.fsencode(tempfile.gettempdir())) < 70  # the paths of sockets are short
    forks &= len(os.fsencode(sys.executable)) < 120 and " " not in sys.executable  # as the first line of scripts
    if PROGRAM in os.environ or not forks:
        yield
        return
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as program:
        os.environ[PROGRAM] = str(program)
        try:
            yield
        finally:
            del os.environ[PROGRAM]


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[Path]:
    address = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(64)
        environment = {name: value for name, value in os.environ.items() if name not in FOLLOWED}
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            stdin=subprocess.PIPE,  # it ends when this end is closed, however the tests end
            stdout=subprocess.DEVNULL,
            env=environment,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    program = folder / "python"
    lines = [
        f"#!{sys.executable} -IS",
        f"import sys; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r}); import commands",
        f"sys.exit(commands.call({str(address)!r}, sys.argv[1:]))",
    ]
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    try:
        yield program
    finally:
        server.communicate()


def call(address: str, words: list[str]) -> int:
    """Have the server run a program with the standard streams of this process; return its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = {"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [b" "], [0, 1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
        code = int(connection.makefile().readline())
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def serve(listener: socket.socket) -> dict:
    """Wait for callers, and send each the exit code of its program; return in the forks, with what they are to run."""
    running: dict[int, tuple[int, socket.socket]] = {}  # descriptor of a process -> its id, its caller
    while True:
        callers = {caller: pid for pid, caller in running.values()}
        ready, _, _ = select.select([listener, sys.stdin, *running, *callers], [], [])
        for one in ready:
            if one is sys.stdin:
                sys.exit()
            elif one is listener:
                caller = listener.accept()[0]
                _, streams, _, _ = socket.recv_fds(caller, 1, 3)
                request = json.loads(caller.makefile("rb").readline() or "null")
                if request is None:  # it has ended already
                    continue
                _preload()
                if (pid := os.fork()) == 0:
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                        os.close(stream)
                    return request
                for stream in streams:
                    os.close(stream)
                running[os.pidfd_open(pid)] = pid, caller
            elif one in running:
                pid, caller = running.pop(one)
                with contextlib.suppress(OSError), caller:
                    caller.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
                os.close(one)
            elif one.fileno() >= 0:  # a caller that has ended
                with contextlib.suppress(OSError):
                    os.kill(callers[one], signal.SIGKILL)


def _preload() -> None:
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            __import__(name)
    gc.freeze()  # forks need not look for garbage in these modules


def run(words: list[str], folder: str, environment: dict[str, str]) -> None:
    """Do what ``python WORDS`` does in a folder with these environment variables."""
    import runpy
    import types

    import numpy
    import torch

    changed = {name for name, _ in environment.items() - os.environ.items() if name.startswith("PYTHON")}
    if changed := changed - FOLLOWED - OURS:
        sys.exit(f"{__file__}: {', '.join(changed)}: use sys.executable")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if "OMP_NUM_THREADS" in environment:
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    numpy.random.seed()  # noqa: NPY002 (the global one is meant)
    encoding, _, errors = environment.get("PYTHONIOENCODING", "").partition(":")
    reopened = functools.partial(open, encoding=encoding or None, closefd=False)
    sys.stdin = sys.__stdin__ = reopened(0, errors=errors or None)
    sys.stdout = sys.__stdout__ = reopened(1, "w", errors=errors or None)
    sys.stdout.reconfigure(write_through=bool(environment.get("PYTHONUNBUFFERED")))
    sys.stderr = sys.__stderr__ = reopened(2, "w", errors="backslashreplace", buffering=1)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[0:1] = ["", *(os.path.abspath(path) for path in paths if path)]
    kind, *rest = words
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(rest[0], vars(sys.modules["__main__"]))
    elif kind == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind.startswith("-"):
        sys.exit(f"{__file__}: {kind}: use sys.executable")
    else:
        sys.path[0] = os.path.dirname(os.path.realpath(kind))
        sys.argv = words
        runpy.run_path(kind, run_name="__main__")


def exit_code(program: Callable[[], None]) -> int:
    """Run a program; show its error, or the message it ends with, as the interpreter does."""
    try:
        program()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end(code: int) -> NoReturn:
    """End as an interpreter does, but do not take the modules apart, which takes longer than many programs."""
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120
    os._exit(code)


if __name__ == "__main__":
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    end(exit_code(lambda: run(**asked)))
