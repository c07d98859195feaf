"""The figures: their files, and lines at the values of the records."""

import itertools

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


def test_epochs_figure_has_a_panel_per_method_with_the_mean_over_seeds(tmp_path):
    scores = scores_of(write_base2new(tmp_path, curves=True))
    _, figure = make_figures(scores, ["epochs"])["epochs"]
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["CoOp", "QCoOp"] * 2
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == [
        "base classes\naccuracy (%)",
        "new classes\naccuracy (%)",
    ]
    for axis, (kind, method) in zip(figure.axes, itertools.product(("base", "new"), ("CoOp", "QCoOp")), strict=True):
        lines = {line.get_label(): line for line in axis.lines}
        assert set(lines) == {"_method", "the other methods", "ZeroshotCLIP (no training)"}
        expected = {name: [s.curves[kind][-1][1] for s in scores if s.method == name] for name in ("CoOp", "QCoOp")}
        other = "QCoOp" if method == "CoOp" else "CoOp"
        assert lines["_method"].get_ydata()[-1] == pytest.approx(sum(expected[method]) / 3)
        assert lines["the other methods"].get_ydata()[-1] == pytest.approx(sum(expected[other]) / 3)
        assert list(lines["_method"].get_xdata())[-1] == 200
        (band,) = axis.collections  # of the panel's own method only
        low, high = band.get_datalim(axis.transData).intervaly
        assert axis.get_ylim()[0] <= low < high <= axis.get_ylim()[1]
    assert [text.get_text() for text in figure.legends[0].texts] == ["the other methods", "ZeroshotCLIP (no training)"]


def test_epochs_figure_breaks_many_methods_into_rows_of_one_scale(tmp_path):
    """Six methods: two rows of three for base classes, then two for new classes."""
    for number, method in enumerate(("A", "B", "C", "D", "E", "F")):
        train = write_run(tmp_path / f"{method}t", method, prompt={"payload_bytes": 10})
        for classes in ("base", "new"):
            accuracy = 50 + 5 * number
            curve = [{"epoch": 0, "accuracy": 50}, {"epoch": 9, "accuracy": accuracy}]
            where = {"mode": "eval", "classes": classes, "accuracy": accuracy, "model_dir": str(train), "curve": curve}
            write_run(tmp_path / f"{method}{classes}", method, **where)
    _, figure = make_figures(scores_of(tmp_path), ["epochs"])["epochs"]
    assert [axis.get_title(loc="left") for axis in figure.axes] == list("ABCDEF") * 2
    assert len({axis.get_ylim() for axis in figure.axes[:6]}) == 1
    assert [axis.get_xlabel() for axis in figure.axes] == [""] * 9 + ["epoch"] * 3


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
