"""The figures: their files, and lines at the values of the records."""

import numpy as np
import pytest
from report_runs import write_base2new, write_run

from qprompt.__main__ import main
from qprompt.report.figures import make_figures
from qprompt.report.plotting import to_bytes
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


def test_long_names_do_not_collapse_the_axes(tmp_path):
    """Long annotations used to collapse the axes, of which matplotlib warns; warnings are errors in tests."""
    for number in range(3):
        settings = {"TRAINER.QUANT.INCLUDE": ["*.compound_prompt_projections.*.weight", f"*.tensor_{number}"]}
        stored = {"payload_bytes": 10 ** (number + 2)}
        train = write_run(tmp_path / f"{number}", "QMaPLe", prompt=stored, settings=settings)
        write_run(tmp_path / f"{number}n", "QMaPLe", mode="eval", classes="new", model_dir=str(train))
    _, figure = make_figures(scores_of(tmp_path), ["size"])["size"]
    labels = {text.get_text() for text in figure.axes[0].texts}
    assert len(labels) == 3 and {len(label) for label in labels} == {24}
    assert to_bytes(figure, "png")


def test_files_of_the_same_records_are_identical(tmp_path, capsys):
    write_base2new(tmp_path / "runs", curves=True)
    for out in ("a", "b"):
        assert main(["figures", str(tmp_path / "runs"), "--out", str(tmp_path / out), "--only", "epochs"]) == 0
    for kind, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        content = (tmp_path / f"a/epochs.{kind}").read_bytes()
        assert content.startswith(magic)
        assert content == (tmp_path / f"b/epochs.{kind}").read_bytes()


def test_figure_without_runs_is_named(tmp_path, capsys):
    write_base2new(tmp_path / "runs")
    assert main(["figures", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--only", "epochs"]) == 2
    assert "no runs for the figure epochs" in capsys.readouterr().err


def test_unknown_figure_is_a_user_error(tmp_path, capsys):
    assert main(["figures", str(tmp_path), "--out", str(tmp_path), "--only", "epoch"]) == 2
    assert "Did you mean 'epochs'?" in capsys.readouterr().err


def test_size_figure_has_one_point_per_method(tmp_path):
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


def write_record(folder, names=("ctx",), steps=50, histograms=True):
    """Write a file like the recorder of quantized runs."""
    shape = (steps, len(names))
    arrays = {"name": np.array(names), "step": np.arange(steps) * 10}
    arrays |= {"kl": np.full(shape, 0.02), "sigma": np.ones(shape), "mu": np.zeros(shape), "mse": np.ones(shape)}
    arrays |= {"snr_db": np.full(shape, np.inf), "refit": np.arange(steps)[:, None] % 25 == np.zeros(shape)}
    for name in names if histograms else ():
        arrays[f"histogram_step/{name}"] = np.arange(20) * 5
        arrays[f"histogram_range/{name}"] = np.array([[-1.0, 1.0]] * 20)
        arrays[f"histogram/{name}"] = np.ones((20, 64))
    np.savez(folder / "quantization.npz", **arrays)


def test_quantization_figures_show_fits_and_histograms(tmp_path):
    for bits in (1, 2):
        where = {"TRAINER.QUANT.BITS": bits, "TRAINER.QUANT.KL_THRESHOLD": 0.01}
        write_record(write_run(tmp_path / str(bits), "QCoOp", settings=where), ["ctx", "proj"])
    made = make_figures(scores_of(tmp_path), ["kl", "weights"])
    kl, weights = made["kl"][1], made["weights"][1]
    first = kl.axes[0]
    assert first.get_title(loc="left").startswith("QCoOp BITS=1")
    (ticks,) = [line for line in first.lines if line.get_marker() == "|" and line.get_color() == "#0072B2"]
    assert list(ticks.get_xdata()) == [0, 250]
    assert [label.get_text() for label in kl.legends[0].texts] == ["ctx", "proj", "T_KL (threshold)"]
    assert len(weights.axes) == 4  # two methods, two tensors
    assert [label.get_text() for label in weights.axes[0].get_yticklabels()] == [*map(str, range(0, 100, 10)), "95"]


def test_run_without_a_fit_does_not_break_the_layout(tmp_path):
    for mode, fitted in (("qat", True), ("ptq", False)):
        folder = write_run(tmp_path / mode, "QCoOp", settings={"TRAINER.QUANT.MODE": mode})
        write_record(folder)
        if not fitted:
            arrays = dict(np.load(folder / "quantization.npz"))
            shape = arrays["kl"].shape
            arrays |= {"kl": np.full(shape, np.nan), "refit": np.zeros(shape, bool)}
            np.savez(folder / "quantization.npz", **arrays)
    _, figure = make_figures(scores_of(tmp_path), ["kl"])["kl"]
    to_bytes(figure, "png")  # matplotlib warns of a collapsed layout


def test_points_of_the_same_size_are_not_joined(tmp_path):
    for mode in ("qat", "ptq"):
        where = {"settings": {"TRAINER.QUANT.MODE": mode}, "prompt": {"payload_bytes": 68}}
        train = write_run(tmp_path / mode, "QCoOp", **where)
        write_run(tmp_path / f"n{mode}", "QCoOp", mode="eval", classes="new", accuracy=70, model_dir=str(train))
    _, figure = make_figures(scores_of(tmp_path), ["size"])["size"]
    assert figure.axes[0].lines[0].get_linestyle() == "None"


def test_damaged_record_is_named_and_left_out(tmp_path, caplog):
    content = {}
    for name in ("half", "garbage", "empty", "foreign"):
        folder = write_run(tmp_path / name, "QCoOp", settings={"TRAINER.QUANT.METHOD": name})
        write_record(folder)
        content[name] = folder / "quantization.npz"
    content["half"].write_bytes(content["half"].read_bytes()[:3000])
    content["garbage"].write_bytes(b"garbage")
    content["empty"].write_bytes(b"")
    np.savez(content["foreign"], weight=np.ones(3))
    assert make_figures(scores_of(tmp_path), ["kl", "weights"]) == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 4
    assert all(str(path) in caplog.text for path in content.values())
