"""The public names of qprompt: they stay what they are, load nothing early, and type checkers see them."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import commands
import mypy.api
import pytest

import qprompt

PACKAGE = Path(qprompt.__file__).parent
STUB = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
NAMES = sorted(alias.asname for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names)

# One use of each public name, by the helpers of PROGRAM.
USES = {
    "Classifier": "isinstance(qprompt.load_classifier(prompt_file(), 'a,b', 'tiny'), qprompt.Classifier) or 1 / 0",
    "Prediction": "qprompt.Prediction('cat', 0.9, (('cat', 0.9),))",
    "QuantConfig": "qprompt.QuantConfig(bits=2)",
    "QuantizedPrompts": "qprompt.QuantizedPrompts()",
    "Recorder": "qprompt.Recorder(folder / 'record.npz')",
    "UserError": "qprompt.UserError('a message')",
    "add_noise_": "qprompt.add_noise_(learner(), 'ctx', 0.1)",
    "add_quant_cfg": "qprompt.add_quant_cfg(yacs.config.CfgNode({'TRAINER': {}}))",
    "dequantize_": "qprompt.dequantize_(quantized())",
    "finish_": "qprompt.finish_(quantized())",
    "fit": "refused(lambda: qprompt.fit('nowhere'))",  # trains in tests/test_picture_run.py
    "inspect": "qprompt.inspect(prompt_file())",
    "kmeans": "qprompt.kmeans(torch.arange(8.0), 2)",
    "load": "qprompt.load(prompt_file())",
    "load_": "qprompt.load_(learner(), prompt_file())",
    "load_classifier": "qprompt.load_classifier(prompt_file(), ['a', 'b'], 'tiny').predict_proba([])",
    "load_state_dict_": "qprompt.load_state_dict_(quantized(), {'ctx': torch.ones(4, 128)})",
    "pack": "qprompt.pack({'ctx': torch.randn(4, 128)}, folder / 'packed.qprompt')",
    "plain_state_dict": "qprompt.plain_state_dict(quantized())",
    "push_to_hub": "callable(qprompt.push_to_hub) or 1 / 0",  # tests/test_hub.py uses it
    "quantize_": "qprompt.quantize_(learner(), names='ctx')",
    "refresh_": "qprompt.refresh_(quantized())",
    "save": "qprompt.save(quantized(), folder / 'saved.qprompt')",
    "unpack": "qprompt.unpack(prompt_file(), 'coop')",
}
PROGRAM = """
import importlib, json, pathlib, pkgutil, sys
import qprompt

uses, folder = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])
first = {name: getattr(qprompt, name) for name in uses}
import torch, yacs.config

def learner():
    module = torch.nn.Module()
    module.ctx = torch.nn.Parameter(torch.randn(4, 128))
    return module

def quantized():
    module = learner()
    qprompt.quantize_(module, names="ctx")
    return module

def prompt_file():
    qprompt.save(quantized(), folder / "given.qprompt", method="QCoOp")
    return folder / "given.qprompt"

def refused(call):
    try:
        call()
    except qprompt.UserError:
        return
    raise AssertionError

def use_all():
    for name, use in uses.items():
        assert getattr(qprompt, name) is first[name], f"qprompt.{name} is now {getattr(qprompt, name)}"
        eval(use)

use_all()
quantized()
use_all()
importlib.import_module("qprompt.engine").activate()
for module in pkgutil.walk_packages(qprompt.__path__, "qprompt."):
    if not module.name.startswith("qprompt.engine.dassl"):  # imported as `dassl`
        importlib.import_module(module.name)
use_all()
"""


def test_every_name_is_used_here():
    assert sorted(USES) == NAMES
    assert sorted(qprompt.__all__) == sorted([*NAMES, "__version__"])


def test_names_stay_the_same_objects(tmp_path):
    run(PROGRAM, json.dumps(USES), tmp_path)


def test_no_name_is_a_module_of_the_package():
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(NAMES)


@pytest.mark.parametrize(
    "module, excluded",
    [
        ("qprompt", ["torch", "dassl", "clip", "yacs", "numpy"]),
        ("qprompt.quantization.api", ["dassl", "clip", "yacs"]),
    ],
)
def test_import_is_light(module, excluded):
    program = f"import sys, {module}; print([name for name in {excluded} if name in sys.modules])"
    assert run(program, python=sys.executable if "torch" in excluded else None).strip() == "[]"


def test_type_checker_sees_every_name(tmp_path, monkeypatch):
    file = tmp_path / "use.py"
    lines = ["import qprompt", *(f"reveal_type(qprompt.{name})" for name in NAMES), "qprompt.nonexistent"]
    file.write_text("\n".join(lines), encoding="utf-8")
    # With the settings of the project: checking torch's types takes long, and scripts/test.sh has just done that.
    monkeypatch.chdir(PACKAGE.parent)
    out, error, _ = mypy.api.run([str(file)])
    assert not error
    revealed = [line.partition("Revealed type is ")[2].strip('"') for line in out.splitlines() if "Revealed" in line]
    types = dict(zip(NAMES, revealed, strict=True))
    assert not [name for name, type_ in types.items() if type_ == "Any"]
    assert types["kmeans"] == (
        "def (x: torch._tensor.Tensor, k: int, init: torch._tensor.Tensor | None =, sample: int | None =)"
        " -> torch._tensor.Tensor"
    )
    assert types["quantize_"].startswith("def (module: torch.nn.modules.module.Module, config: qprompt.")
    assert types["quantize_"].endswith("-> list[str]")
    assert 'Module has no attribute "nonexistent"' in out


def run(program, *arguments, python=None):
    done = subprocess.run(
        [python or commands.python(), "-c", program, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
