"""Tables from metrics.json files: pairing, the convention of H, formats."""

import csv
import json
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import write_base2new, write_run

from qprompt.__main__ import main
from qprompt.report import render
from qprompt.report.accuracy import accuracy_tables, base_new_h
from qprompt.report.records import read_runs
from qprompt.report.scores import Score, harmonic, pair
from qprompt.report.tables import Column, Stat, Table


def tables_of(*paths):
    scores, warnings = pair(read_runs(paths)[0])
    return accuracy_tables(scores), warnings


def rows_of(table):
    """{(data set, method): entries of the row by column name}"""
    names = [column.name for column in table.columns]
    return {tuple(row[:2]): dict(zip(names, row, strict=True)) for row in table.rows}


@pytest.fixture
def two_seeds(tmp_path):
    """CoOp on two seeds with round numbers: base 80 and 90, new 60 and 70."""
    for seed, base, new in ((1, 80.0, 60.0), (2, 90.0, 70.0)):
        train = write_run(tmp_path / f"train/{seed}", seed=seed, accuracy=base, prompt={"payload_bytes": 4096})
        write_run(tmp_path / f"new/{seed}", mode="eval", classes="new", seed=seed, accuracy=new, model_dir=str(train))
    write_run(tmp_path / "zs/base", "ZeroshotCLIP", mode="eval", accuracy=70.0)
    write_run(tmp_path / "zs/new", "ZeroshotCLIP", mode="eval", classes="new", accuracy=75.0)
    return tmp_path


def test_base_new_and_h_follow_the_convention(two_seeds):
    (table,), warnings = tables_of(two_seeds)
    assert not warnings
    coop = rows_of(table)["TinyWorld", "CoOp"]
    assert (coop["Base"].mean, coop["New"].mean, coop["Stored"], coop["Time"], coop["Runs"]) == (85, 65, 4096, 12.5, 2)
    assert coop["H"].mean == 2 * 85 * 65 / 150  # of the means; not the mean of the two H
    assert coop["Base"].std == pytest.approx(statistics.stdev([80, 90]))
    zero_shot = rows_of(table)["TinyWorld", "ZeroshotCLIP"]
    assert (zero_shot["Stored"], zero_shot["Base"].std, zero_shot["Time"]) == (0, None, None)
    assert list(rows_of(table))[0] == ("TinyWorld", "ZeroshotCLIP")


def test_stored_bytes_include_what_is_not_quantized(tmp_path):
    kept = {"payload_bytes": 160, "fp16_kept_bytes": 768}
    write_run(tmp_path / "run", "QMaPLe", prompt=kept)
    write_run(tmp_path / "other", "MaPLe", prompt={"payload_bytes": 1000, "fp16_kept_bytes": None})
    (table,), _ = tables_of(tmp_path)
    assert [row["Stored"] for row in rows_of(table).values()] == [1000, 928]


def test_average_is_that_of_the_columns(tmp_path):
    write_base2new(tmp_path, datasets=("DTD", "EuroSAT"))
    (table,), _ = tables_of(tmp_path)
    rows = rows_of(table)
    average = rows["Average of 2", "CoOp"]
    for name in ("Base", "New"):
        each = [rows[d, "CoOp"][name].mean for d in ("DTD", "EuroSAT")]
        assert average[name].mean == pytest.approx(statistics.fmean(each))
    assert average["H"].mean == pytest.approx(harmonic(average["Base"].mean, average["New"].mean))
    assert average["Base"].n == 3  # seeds


def test_average_says_which_data_sets_are_missing(tmp_path):
    write_base2new(tmp_path / "a", datasets=("DTD", "EuroSAT"), trainers=("CoOp",))
    write_base2new(tmp_path / "b", datasets=("DTD",), trainers=("QCoOp",))
    (table,), _ = tables_of(tmp_path)
    assert ("Average of 2", "QCoOp *") in rows_of(table)
    assert any("QCoOp is averaged over 1 of 2 data sets; not run: EuroSAT" in note for note in table.notes)


def test_methods_are_named_by_the_settings_in_which_they_differ(tmp_path):
    for bits in (1, 2):
        settings = {"TRAINER.QUANT.BITS": bits, "TRAINER.COOP.N_CTX": 4, "OPTIM.LR": 0.01}
        train = write_run(tmp_path / f"t{bits}", "QCoOp", settings=settings)
        # the evaluation has no BITS: those of the training run count
        write_run(tmp_path / f"e{bits}", "QCoOp", mode="eval", classes="new", accuracy=70 + bits, model_dir=str(train))
    (table,), _ = tables_of(tmp_path)
    rows = rows_of(table)
    assert list(rows) == [("TinyWorld", "QCoOp BITS=1"), ("TinyWorld", "QCoOp BITS=2")]
    assert rows["TinyWorld", "QCoOp BITS=2"]["New"].mean == 72


def test_epochs_that_differ_by_data_set_do_not_make_another_method(tmp_path):
    for dataset, epochs in (("ImageNet", 50), ("DTD", 200)):
        write_run(tmp_path / dataset, dataset=dataset, settings={"OPTIM.MAX_EPOCH": epochs})
    (table,), _ = tables_of(tmp_path)
    assert {method for _, method in rows_of(table)} == {"CoOp"}
    write_run(tmp_path / "short", dataset="DTD", settings={"OPTIM.MAX_EPOCH": 10})
    (table,), _ = tables_of(tmp_path)
    names = {method.removesuffix(" *") for _, method in rows_of(table)}
    assert names == {"CoOp MAX_EPOCH=10", "CoOp MAX_EPOCH=50", "CoOp MAX_EPOCH=200"}


def test_evaluation_of_an_earlier_epoch_is_another_method(two_seeds):
    more = {"mode": "eval", "classes": "new", "model_dir": str(two_seeds / "train/1"), "load_epoch": 50}
    write_run(two_seeds / "early", accuracy=74, **more)
    (table,), warnings = tables_of(two_seeds)
    assert not warnings
    assert rows_of(table)["TinyWorld", "CoOp LOAD_EPOCH=50"]["New"].mean == 74
    assert rows_of(table)["TinyWorld", "CoOp LOAD_EPOCH=last"]["New"].mean == 65


def test_moved_folders_are_still_paired(two_seeds, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "output"
    two_seeds.rename(moved)
    for seed in (1, 2):
        file = moved / f"new/{seed}/metrics.json"
        data = json.loads(file.read_text()) | {"model_dir": f"train/{seed}", "changed": {"OPTIM.LR": 3}}
        file.write_text(json.dumps(data))
    (table,), _ = tables_of(moved)
    assert rows_of(table)["TinyWorld", "CoOp"]["New"].mean == 65


def test_runs_that_contradict_each_other_give_a_warning(two_seeds):
    write_run(two_seeds / "again", accuracy=81.0, finished="2027-01-01T00:00:00+0000")
    _, warnings = tables_of(two_seeds)
    assert len(warnings) == 1 and "81.00" in warnings[0]


def test_seed_without_new_accuracy_is_left_out_and_named(two_seeds):
    write_run(two_seeds / "train/3", seed=3, accuracy=99.0)
    (table,), _ = tables_of(two_seeds)
    assert rows_of(table)["TinyWorld", "CoOp"]["Base"].mean == 85
    assert any("missing for seed 3" in note for note in table.notes)


def test_few_shot_and_transfer_tables(tmp_path):
    for shots in (1, 16):
        for seed in (1, 2):
            where = tmp_path / f"{shots}-{seed}"
            write_run(where, dataset="ImageNet", classes="all", shots=shots, seed=seed, accuracy=60 + shots + seed)
    more = {"mode": "eval", "classes": "all", "model_dir": str(tmp_path / "16-1")}
    for number, target in enumerate(("DTD", "EuroSAT")):
        write_run(tmp_path / target, dataset=target, accuracy=40 + number, **more)
    for draw in (0, 1):  # nothing was learned on draw 1
        where = tmp_path / f"zs{draw}"
        write_run(where, "ZeroshotCLIP", "ImageNet", mode="eval", classes="all", accuracy=58.0 + draw, draw=draw)
    (few, transfer), _ = tables_of(tmp_path)
    rows = rows_of(few)
    assert rows["ImageNet", "CoOp"]["1 shot"].mean == 62.5 and rows["ImageNet", "CoOp"]["16 shots"].n == 2
    assert rows["ImageNet", "ZeroshotCLIP"]["0 shots"].mean == 58 and rows["ImageNet", "CoOp"]["0 shots"] is None
    row = rows_of(transfer)["ImageNet", "CoOp"]
    assert (row["DTD"].mean, row["EuroSAT"].mean, row["Average"].mean) == (40, 41, 40.5)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=5))
def test_h_lies_between_base_and_new(pairs):
    scores = [Score("CoOp", "D", 0, 16, seed, accuracy={"base": b, "new": n}) for seed, (b, n) in enumerate(pairs)]
    base, new, h = base_new_h(scores)
    assert min(base.mean, new.mean) - 1e-9 <= h.mean <= (base.mean + new.mean) / 2 + 1e-9


MARKED = Table(
    "T_1 & 50%",
    [Column("Method"), Column("H", "percent", "high"), Column("Stored", "bytes")],
    [
        ["a|b", Stat(71.004, 0.5, 3), 1774656],
        ["c_d", Stat(71.0, None), None],
        ["e", Stat(70.0, 1.0, 3), 0],
        ["f", None, 5],
    ],
)


def test_best_and_second_are_judged_at_the_decimals_shown():
    assert MARKED.marks() == {(0, 1): "best", (1, 1): "best", (2, 1): "second"}
    two = Table("", MARKED.columns, MARKED.rows[1:3])
    assert two.marks() == {(0, 1): "best"}


def test_markdown():
    lines = render.markdown([MARKED]).splitlines()
    assert lines[3] == "|---|---:|---:|"
    assert lines[4] == r"| a\|b | **71.00 ± 0.50** | 1,774,656 B |"
    assert lines[6] == "| e | <u>70.00 ± 1.00</u> | 0 B |"
    assert len({line.replace(r"\|", "").count("|") for line in lines[2:]}) == 1


def test_latex():
    shown = render.latex([MARKED])
    assert r"\caption{T\_1 \& 50\%.}" in shown
    assert r"\textbf{71.00} {\scriptsize$\pm$0.50} & 1,774,656 B \\" in shown
    assert r"\underline{70.00}" in shown and r"c\_d & \textbf{71.00} & -- \\" in shown
    assert shown.count(r"\toprule") == shown.count(r"\bottomrule") == 1


def test_csv_keeps_full_precision(two_seeds, capsys):
    assert main(["report", str(two_seeds), "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    coop = next(row for row in rows if row["method"] == "CoOp")
    assert float(coop["h"]) == 2 * 85 * 65 / 150 and float(coop["base_std"]) == statistics.stdev([80, 90])
    assert next(row for row in rows if row["method"] == "ZeroshotCLIP")["base_std"] == ""


def test_terminal_table_is_ascii_and_aligned(two_seeds, capsys):
    assert main(["report", str(two_seeds)]) == 0
    shown = capsys.readouterr().out
    assert shown.isascii() and "85.00 +- 7.07" in shown and "4,096 B" in shown
    rows = [line for line in shown.splitlines() if "CoOp" in line or "Method" in line]
    assert len({len(line) for line in rows}) == 1


def test_out_writes_every_format(two_seeds, tmp_path_factory, capsys):
    out = tmp_path_factory.mktemp("out") / "report"
    assert main(["report", str(two_seeds), "--out", str(out)]) == 0
    assert {p.name for p in out.iterdir()} >= {"report.txt", "report.md", "report.tex", "report.csv"}
    assert (out / "report.txt").read_text().startswith(capsys.readouterr().out.rstrip("\n"))


def test_stat_of_one_value_has_no_spread():
    assert Stat.of([3.0]) == Stat(3.0, None, 1) and Stat.of([]) is None
    assert math.isclose(Stat.of([1.0, 3.0]).std, math.sqrt(2))


def test_transfer_between_draws_of_a_world(tmp_path):
    train = write_run(tmp_path / "train", classes="all", accuracy=80.0)
    for draw in (1, 2):
        more = {"mode": "eval", "classes": "all", "draw": draw}
        write_run(tmp_path / f"to{draw}", accuracy=60.0 + draw, model_dir=str(train), **more)
        write_run(tmp_path / f"zs{draw}", "ZeroshotCLIP", accuracy=50.0 + draw, **more)
    write_run(tmp_path / "zs0", "ZeroshotCLIP", mode="eval", classes="all", accuracy=90.0)
    tables, _ = tables_of(tmp_path)
    (transfer,) = [table for table in tables if table.title.startswith("Transfer")]
    assert transfer.columns[2].name == "TinyWorld (2 draws)"
    rows = rows_of(transfer)
    assert rows["TinyWorld draw 0", "CoOp"]["TinyWorld (2 draws)"].mean == 61.5
    assert rows["-", "ZeroshotCLIP"]["TinyWorld (2 draws)"].mean == 51.5


def test_values_in_names_are_single_words(tmp_path):
    for number, words in enumerate(("", "a photo of a")):
        write_run(tmp_path / str(number), settings={"TRAINER.COOP.CTX_INIT": words})
    (table,), _ = tables_of(tmp_path)
    assert [method for _, method in rows_of(table)] == ["CoOp CTX_INIT=''", "CoOp CTX_INIT=a_photo_of_a"]


def test_picture_and_table_show_the_same_spread(tmp_path):
    from qprompt.report.accuracy import base_new_table
    from qprompt.report.size import h_over_bytes

    for datasets, draws in ((("TinyWorld",), (0, 1, 2)), (("DTD", "EuroSAT"), (0,))):
        folder = write_base2new(tmp_path / str(len(datasets)), datasets, draws=draws)
        scores, _ = pair(read_runs([folder])[0])
        rows = {row[1]: row[4] for row in reversed(base_new_table(scores).rows)}  # the average comes first in the table
        axis = h_over_bytes(scores).axes[0]
        bars = {}
        for container in axis.containers:
            (segment,) = container[2][0].get_segments()
            bars[container.get_label()] = (segment[:, 1].mean(), (segment[1, 1] - segment[0, 1]) / 2)
        assert set(bars) == {"CoOp", "QCoOp"}
        for method, (mean, std) in bars.items():
            assert (mean, std) == (pytest.approx(rows[method].mean), pytest.approx(rows[method].std)), method


def test_an_average_over_unequal_seeds_says_so(tmp_path):
    from qprompt.report.accuracy import base_new_table

    write_base2new(tmp_path, ("DTD",), seeds=(1, 2, 3))
    write_base2new(tmp_path, ("EuroSAT",), seeds=(1, 2))
    notes = " ".join(base_new_table(pair(read_runs([tmp_path])[0])[0]).notes)
    assert "QCoOp is averaged over data sets with different seeds (DTD: 1, 2, 3; EuroSAT: 1, 2)" in notes
    assert "ZeroshotCLIP is averaged" not in notes
