"""A typing mistake is answered before PyTorch is imported, which takes seconds; shells complete commands."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qprompt.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "import sys; from qprompt.__main__ import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
MISTAKES = {
    "predict missing.qprompt a.jpg": "no prompt file 'missing.qprompt'",
    "predict setup.py missing.jpg": "missing.jpg does not exist",
    "inspect missing.qprompt": "no prompt file 'missing.qprompt'",
    "unpack missing.qprompt --as coop --output-dir out": "no prompt file 'missing.qprompt'",
    "pack missing.pth": "no checkpoint missing.pth",
    "sweep missing.yaml": "no sweep spec 'missing.yaml'",
    "sweep quickstar.yaml": "Did you mean 'configs/sweeps/quickstart.yaml'?",
    "sweep configs/sweeps/quickstart.yaml 'trainers={QCop: tiny}'": "Did you mean 'QCoOp'?",
    "sweep configs/sweeps/quickstart.yaml datasets=[tiny_wrld]": "Did you mean 'tiny_world'?",
    "sweep configs/sweeps/quickstart.yaml shots=many": "shots expects numbers",
    "report missing": "no missing",
    "look missing": "no missing",
    "figures missing --out out": "no missing",
    "reproduce missing": "'missing' is not a folder",
    "check-data missing": "'missing' is not a folder",
    "train missing": "'missing' is not a folder",
    "trian .": "Did you mean 'train'?",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_typing_mistake_is_answered_without_torch(typed):
    words = shlex.split(typed)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "2 False\n", done.stdout + done.stderr
    assert MISTAKES[typed] in done.stderr and done.stderr.count("\n") == 1


def test_a_prompt_file_is_inspected_without_torch(tmp_path):
    import torch

    import qprompt

    module = torch.nn.Linear(8, 8)
    qprompt.quantize_(module, names=["weight"], bits=2)
    qprompt.save(module, tmp_path / "a.qprompt", method="QCoOp", backbone="tiny")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "inspect", str(tmp_path / "a.qprompt")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("False\n") and "method           QCoOp" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("qprompt tra", "train"), ("qprompt train . --trainer QMa", "QMaPLe"), ("qprompt predict --js", "--json")],
)
def test_bash_completes_commands_options_and_trainers(typed, completed, tmp_path, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    (tmp_path / "qprompt.bash").write_text(capsys.readouterr().out)
    words = typed.split()
    program = f"source qprompt.bash; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_qprompt"
    done = subprocess.run(
        ["bash", "-c", f'{program}; echo "${{COMPREPLY[@]}}"'], cwd=tmp_path, capture_output=True, text=True
    )
    assert completed in done.stdout.split(), done.stderr


def test_completion_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 2
    assert "pip install shtab" in capsys.readouterr().err
