"""The program of `commands.python` does what the interpreter does."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PROGRAM, python

forked_only = pytest.mark.skipif(
    os.environ.get(PROGRAM, "python") == "python", reason="programs are new interpreters here"
)
SHOW = """
import json, os, sys
names = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([sys.argv, __name__, os.getcwd(), dict(os.environ), sys.path, sys.stdin.read()]))
print("Ä", sorted(names & {"qprompt", "dassl", "clip", "pytest", "conftest"}), file=sys.stderr)
"""


@pytest.mark.parametrize("kind", ["-c", "-m", "script"])
def test_program_gets_what_the_interpreter_gets(tmp_path, kind):
    (tmp_path / "show.py").write_text(SHOW, encoding="utf-8")
    words = {"-c": ["-c", SHOW], "-m": ["-m", "show"], "script": ["show.py"]}[kind] + ["a b", "ü"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "/nowhere", "PYTHONIOENCODING": "utf-8", "OWN": "1"}
    forked, own = (
        subprocess.run([command, *words], cwd=tmp_path, env=environment, input="given", capture_output=True, text=True)
        for command in (python(), sys.executable)
    )
    assert forked.stderr == own.stderr == "Ä []\n"
    assert json.loads(forked.stdout) == json.loads(own.stdout)


@pytest.mark.parametrize(
    "code",
    [
        "import atexit; atexit.register(print, 'end'); print('begun')",
        "import sys; print('out'); sys.exit(3)",
        "import sys; sys.exit('a message')",
        "import os; os._exit(4)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import threading, time; threading.Thread(target=print, args=('from a thread',)).start()",
        "import warnings; warnings.warn('once')",
        "import sys; print('a' * 100_000); sys.exit(256 + 5)",
    ],
)
def test_program_ends_as_the_interpreter_does(code):
    forked, own = (subprocess.run([command, "-c", code], capture_output=True) for command in (python(), sys.executable))
    assert (forked.returncode, forked.stdout, forked.stderr) == (own.returncode, own.stdout, own.stderr)


def test_error_is_shown():
    done = subprocess.run([python(), "-c", "1 / 0"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")


@forked_only
def test_program_ends_with_its_caller(tmp_path):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with subprocess.Popen([python(), "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        pid = int(caller.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        caller.send_signal(signal.SIGTERM)
        assert caller.stdout.read() == ""  # the other end is closed now


@forked_only
def test_what_a_fork_cannot_do_is_refused():
    for words, more in ((["-W", "error", "-c", ""], {}), (["-c", ""], {"PYTHONHASHSEED": "1"})):
        done = subprocess.run([python(), *words], env={**os.environ, **more}, capture_output=True, text=True)
        assert done.returncode == 1 and "use sys.executable" in done.stderr
