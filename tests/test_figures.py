"""The figures: files that open, the lines that the records say, and the error without matplotlib."""

import builtins

import pytest
from report_runs import write_base2new, write_run

from qprompt.__main__ import main
from qprompt.report.figures import make_figures
from qprompt.report.records import read_runs
from qprompt.report.scores import pair

pytest.importorskip("matplotlib")


def scores_of(path):
    return pair(read_runs([path])[0])[0]


def test_epochs_figure_draws_the_mean_over_seeds(tmp_path):
    scores = scores_of(write_base2new(tmp_path, curves=True))
    _, figure = make_figures(scores, ["epochs"])["epochs"]
    base, new = figure.axes
    lines = {line.get_label(): line for line in base.lines}
    assert set(lines) == {"CoOp", "QCoOp", "ZeroshotCLIP (no training)"}
    expected = [s.curves["base"][-1][1] for s in scores if s.method == "CoOp"]
    assert lines["CoOp"].get_ydata()[-1] == pytest.approx(sum(expected) / 3)
    assert list(lines["CoOp"].get_xdata())[-1] == 200
    assert len(base.collections) == len(new.collections) == 2  # a band each


def test_files_are_written_and_repeatable(tmp_path, capsys):
    write_base2new(tmp_path / "runs", curves=True)
    for out in ("a", "b"):
        assert main(["figures", str(tmp_path / "runs"), "--out", str(tmp_path / out), "--only", "epochs"]) == 0
    for kind, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        content = (tmp_path / f"a/epochs.{kind}").read_bytes()
        assert content.startswith(magic)
        assert content == (tmp_path / f"b/epochs.{kind}").read_bytes()


def test_a_figure_without_runs_is_said(tmp_path, capsys):
    write_base2new(tmp_path / "runs")
    assert main(["figures", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--only", "epochs"]) == 2
    assert "epochs: no runs for it" in capsys.readouterr().err


def test_an_unknown_figure_is_a_user_error(tmp_path, capsys):
    assert main(["figures", str(tmp_path), "--out", str(tmp_path), "--only", "epoch"]) == 2
    assert "Did you mean 'epochs'?" in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(tmp_path, capsys, monkeypatch):
    write_base2new(tmp_path / "runs", curves=True)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["figures", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    assert "qprompt[plot]" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0  # the tables need no plots
    assert "qprompt[plot]" in capsys.readouterr().err


def test_size_figure_has_a_point_a_method(tmp_path):
    for bits in (1, 2):
        where = {"settings": {"TRAINER.QUANT.BITS": bits}, "prompt": {"payload_bytes": 260 * bits}}
        train = write_run(tmp_path / f"q{bits}", "QCoOp", **where)
        write_run(tmp_path / f"n{bits}", "QCoOp", mode="eval", classes="new", accuracy=70, model_dir=str(train))
    _, figure = make_figures(scores_of(tmp_path), ["size"])["size"]
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    assert [text.get_text() for text in axis.texts] == ["BITS=1", "BITS=2"]
    assert list(axis.lines[0].get_xdata()) == [260, 520]


def test_few_shot_figure_needs_two_numbers_of_shots(tmp_path):
    write_run(tmp_path / "a", classes="all", shots=1)
    assert make_figures(scores_of(tmp_path)) == {}
    write_run(tmp_path / "b", classes="all", shots=16, accuracy=90.0)
    write_run(tmp_path / "z", "ZeroshotCLIP", classes="all", mode="eval")
    _, figure = make_figures(scores_of(tmp_path))["shots"]
    (axis,) = figure.axes
    assert list(axis.lines[0].get_xdata()) == [1, 16] and list(axis.lines[0].get_ydata()) == [80, 90]
