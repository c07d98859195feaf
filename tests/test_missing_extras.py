"""What needs a missing optional package fails with one line that says what to install; the rest still works."""

import sys
from pathlib import Path

import pytest
import torch
from report_runs import write_base2new

import qprompt
import train
from qprompt.__main__ import main
from qprompt.backbones import import_clip
from qprompt.errors import UserError


@pytest.fixture
def hide(monkeypatch):
    """hide(name) makes ``import name`` fail, as if it were not installed."""
    return lambda name: monkeypatch.setitem(sys.modules, name, None)


def only_line(capsys):
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_only_figures_need_matplotlib(hide, tmp_path, capsys):
    hide("matplotlib")
    runs, out = write_base2new(tmp_path / "runs", curves=True), tmp_path / "out"
    assert main(["figures", str(runs), "--out", str(out)]) == 2
    assert "figures need matplotlib, which is not installed: pip install matplotlib" in only_line(capsys)
    assert main(["report", str(runs), "--out", str(out)]) == 0
    assert "Warning: no figures: figures need matplotlib" in capsys.readouterr().err
    assert (out / "report.html").is_file()


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "onnxscript"])
def test_onnx_export_checks_its_packages_first(hide, monkeypatch, name, capsys):
    for other in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, other, sys)  # the others count as installed
    hide(name)
    assert main(["export", "nowhere.qprompt", "--classes", "a,b", "--onnx", "out.onnx"]) == 2
    line = only_line(capsys)
    assert f"--onnx needs {name}, which is not installed" in line
    assert "pip install onnx onnxruntime onnxscript" in line


def test_open_clip_backbone_needs_open_clip(hide, tmp_path, capsys):
    hide("open_clip")
    configs = Path(train.__file__).parent / "configs"
    argv = ["--trainer", "QCoOp", "--root", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    argv += ["--dataset-config-file", str(configs / "datasets/tiny_world.yaml")]
    argv += ["--config-file", str(configs / "trainers/QCoOp/tiny.yaml"), "--backbone", "open_clip:ViT-B-32/x"]
    assert train.main(argv) == 2
    assert "pip install open_clip_torch" in only_line(capsys)


@pytest.mark.parametrize("command", (["push", "a.qprompt", "me/pets"], ["inspect", "hf://me/pets"]))
def test_the_hub_needs_huggingface_hub(hide, tmp_path, monkeypatch, command, capsys):
    monkeypatch.chdir(tmp_path)
    qprompt.pack({"ctx": torch.randn(4, 128)}, "a.qprompt")
    hide("huggingface_hub")
    assert main(command) == 2
    assert "which is not installed: pip install huggingface_hub" in only_line(capsys)


def test_clip_is_needed(hide):
    hide("clip")
    with pytest.raises(UserError, match="pip install clip-anytorch"):
        import_clip()


@pytest.mark.bundled_only
def test_downloads_from_google_drive_need_gdown(hide, tmp_path):
    from dassl.data.datasets import DatasetBase

    hide("gdown")
    with pytest.raises(UserError, match="pip install gdown"):
        DatasetBase.download_data(None, "https://drive.google.com/x", str(tmp_path / "x.zip"))


def test_an_older_exporter_is_refused_by_name(monkeypatch):
    onnx_model = pytest.importorskip("qprompt.export.onnx_model")
    monkeypatch.setattr(onnx_model.torch.onnx, "export", lambda model, args, f: None)
    with pytest.raises(UserError, match="has an older ONNX exporter: type pip install --upgrade torch"):
        onnx_model.check_exporter()
