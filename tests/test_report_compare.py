"""Paired comparisons against brute force and known values; the paper's numbers beside the runs; the page."""

import base64
import itertools
import math
import random
import re
import statistics
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import write_base2new, write_run

from qprompt.__main__ import main
from qprompt.errors import UserError
from qprompt.report.compare import Comparison, compare, comparison_table, default_pairs, paired_differences
from qprompt.report.conclusion import conclusions
from qprompt.report.page import page
from qprompt.report.paired import FEWEST, bootstrap_interval, paired, pairs_needed, wilcoxon_p
from qprompt.report.published import has_measured, published, published_tables
from qprompt.report.records import read_runs
from qprompt.report.scores import Score, pair
from qprompt.report.tables import Column, Stat, Table


def score(method, dataset="D", draw=0, seed=1, base=80.0, new=70.0, shots=16):
    return Score(method, dataset, draw, shots, seed, accuracy={"base": base, "new": new})


def brute_force_p(differences):
    """Two-sided signed-rank p by enumeration of all 2^n signs; zeros are dropped, ties share their mean rank."""
    values = [d for d in differences if d]
    sizes = sorted(map(abs, values))
    ranks = [statistics.fmean(i for i, size in enumerate(sizes, 1) if size == abs(d)) for d in values]
    total = sum(ranks)
    seen = sum(rank for rank, d in zip(ranks, values, strict=True) if d > 0)
    signs = itertools.product((0, 1), repeat=len(values))
    sums = [sum(rank for rank, sign in zip(ranks, chosen, strict=True) if sign) for chosen in signs]
    return sum(abs(s - total / 2) >= abs(seen - total / 2) for s in sums) / len(sums)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=8, unique=True), st.data())
def test_wilcoxon_equals_brute_force(sizes, data):
    signs = data.draw(st.lists(st.sampled_from((-1, 1)), min_size=len(sizes), max_size=len(sizes)))
    differences = [size * sign / 8 for size, sign in zip(sizes, signs, strict=True)]
    assert wilcoxon_p(differences) == pytest.approx(brute_force_p(differences))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=11))
def test_wilcoxon_with_ties_and_zeros_equals_brute_force(differences):
    assert wilcoxon_p([d / 8 for d in differences]) == pytest.approx(brute_force_p(differences))


def test_wilcoxon_equals_scipys_exact_and_statsmodels_power():
    from scipy import stats

    rng = random.Random(0)
    for n in (6, 14, 25, 40):
        differences = [rng.gauss(0.3, 1) for _ in range(n)]
        assert wilcoxon_p(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)
    assert wilcoxon_p([0.0] * 9 + [1.0] * 5) == pytest.approx(0.0625)  # SciPy: 0.025
    assert wilcoxon_p([1.0, -1.0] * 100) == 1.0
    # An outside value of the power: scipy's t test on simulated pairs at the number of pairs of a t test.
    needed = round(pairs_needed(0.5, 1.0) * 3 / math.pi)
    data = np.random.default_rng(0).normal(0.5, 1, (20_000, needed))
    assert (stats.ttest_1samp(data, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)


def test_pairs_needed_equals_statsmodels():
    power = pytest.importorskip("statsmodels.stats.power", reason="statsmodels is not installed")
    for effect in (0.2, 0.5, 1.0):
        n = power.TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)
        assert pairs_needed(effect, 1.0) == max(FEWEST, math.ceil(math.ceil(n) * math.pi / 3))


def test_fewer_than_six_pairs_cannot_be_significant():
    assert wilcoxon_p([1.0, 2, 3, 4, 5]) > 0.05 > wilcoxon_p([1.0, 2, 3, 4, 5, 6])
    five = paired([1.0, 2, 3, 4, 5])
    assert (five.low, five.high, five.wins) == (None, None, 5)


def test_ties_zeros_and_single_pairs():
    assert wilcoxon_p([0.0, 0.0, 0.0]) == 1.0
    assert wilcoxon_p([1.0]) is None
    assert 0 < wilcoxon_p([1.0, 1.0, 1.0, -1.0, 0.0, 2.0]) <= 1
    one = paired([2.0])
    assert (one.n, one.std, one.p, one.needed) == (1, None, None, None)
    assert paired([0.1 + 0.2 - 0.3] * 6).wins == 0  # rounding is no win


def test_interval_covers_the_mean_and_is_repeatable():
    differences = [1.2, 0.3, 2.2, -0.4, 1.9, 0.8, 1.1, 0.2]
    low, high = bootstrap_interval(differences)
    assert low < statistics.fmean(differences) < high and (low, high) == bootstrap_interval(differences)
    half = 2.365 * statistics.stdev(differences) / 8**0.5  # Student's, 7 degrees of freedom
    assert (high - low) / 2 == pytest.approx(half, rel=0.35)
    assert bootstrap_interval([2.0] * 6) == (2.0, 2.0)


def test_pairs_needed():
    # textbook: the paired t test needs 34 pairs for an effect of half a standard deviation; times pi / 3
    assert pairs_needed(0.5, 1.0) == pairs_needed(-0.5, 1.0) == 36
    assert pairs_needed(5.0, 0.0) == pairs_needed(50.0, 1.0) == FEWEST
    assert pairs_needed(0.0, 1.0) is None and pairs_needed(0.001, 1.0) is None and pairs_needed(1.0, None) is None


def test_differences_are_paired_by_data_set_draw_and_seed():
    scores = [score("CoOp", seed=s, new=60.0 + s) for s in (1, 2, 3)] + [
        score("QCoOp", seed=s, new=70.0) for s in (2, 3, 4)
    ]
    assert paired_differences(scores, "CoOp", "QCoOp", "New") == ([8.0, 7.0], "runs")
    scores.append(score("ZeroshotCLIP", shots=0, new=65.0))
    assert paired_differences(scores, "ZeroshotCLIP", "CoOp", "New") == ([-4.0, -3.0, -2.0], "runs")
    scores += [score("ZeroshotCLIP", seed=s, shots=0, new=65.0) for s in (2, 3)]  # the same value again, not new pairs
    assert paired_differences(scores, "ZeroshotCLIP", "CoOp", "New") == ([-4.0, -3.0, -2.0], "runs")
    assert paired_differences(scores, "CoOp", "ZeroshotCLIP", "New") == ([4.0, 3.0, 2.0], "runs")


def test_seeds_of_few_data_sets_give_no_p_by_default():
    methods = (("CoOp", 60), ("QCoOp", 61))
    scores = [score(m, draw=d, seed=s, new=n + s + d) for d in range(3) for s in (1, 2) for m, n in methods]
    table = comparison_table(compare(scores, [("CoOp", "QCoOp")]))
    assert table.rows[1][2:] == [Stat(1.0, 0.0, 6), None, "6 of 6", None, None]
    assert "--pairs-are runs" in table.notes[-1]
    asked = comparison_table(compare(scores, [("CoOp", "QCoOp")], "runs"))
    assert asked.rows[1][3:] == [(1.0, 1.0), "6 of 6", pytest.approx(1 / 32), "6"]
    assert "No interval" not in " ".join(asked.notes)
    more = [score(m, draw=d, new=n + d) for d in range(6) for m, n in methods]
    assert comparison_table(compare(more, [("CoOp", "QCoOp")])).rows[1][5] == pytest.approx(1 / 32)


def test_with_six_data_sets_seeds_are_averaged():
    scores = [
        score(m, draw=d, seed=s, new=n + d * s)
        for d in range(6)
        for s in (1, 2)
        for m, n in (("CoOp", 60), ("QCoOp", 61))
    ]
    assert paired_differences(scores, "CoOp", "QCoOp", "New") == ([1.0] * 6, "datasets")
    assert len(paired_differences(scores, "CoOp", "QCoOp", "New", "runs")[0]) == 12
    table = comparison_table(compare(scores, [("CoOp", "QCoOp")]))
    assert [row[1] for row in table.rows] == ["Base", "New", "H"]
    assert table.rows[1][2:5] == [Stat(1.0, 0.0, 6), (1.0, 1.0), "6 of 6"]


def test_unknown_method_is_a_user_error():
    with pytest.raises(UserError, match="Did you mean 'QCoOp'"):
        compare([score("QCoOp")], [("QCoOp", "QCoop")])


def test_nothing_to_pair_gives_no_table():
    assert comparison_table(compare([score("CoOp", seed=1), score("QCoOp", seed=2)], [("CoOp", "QCoOp")])) is None


def test_noise_control_is_compared_with_its_plain_method(tmp_path):
    for trainer in ("CoOp", "NoisyCoOp", "MaPLe"):
        write_run(tmp_path / trainer, trainer)
    scores, _ = pair(read_runs([tmp_path])[0])
    assert default_pairs(scores) == [("CoOp", "NoisyCoOp")]


def test_default_pairs_have_the_most_settings_in_common(tmp_path):
    for trainer in ("CoOp", "QCoOp"):
        for rate in (0.01, 0.1):
            write_run(tmp_path / f"{trainer}{rate}", trainer, settings={"OPTIM.LR": rate})
    scores, _ = pair(read_runs([tmp_path])[0])
    assert default_pairs(scores) == [("CoOp LR=0.01", "QCoOp LR=0.01"), ("CoOp LR=0.1", "QCoOp LR=0.1")]


def test_conclusions_are_written_from_the_numbers():
    methods = (("CoOp", 80, 60), ("QCoOp", 76, 63))
    rng = random.Random(1)
    scores = [
        score(m, draw=d, base=b + rng.gauss(0, 1), new=n + rng.gauss(0, 1)) for d in range(8) for m, b, n in methods
    ]
    (text,) = conclusions(compare(scores, [("CoOp", "QCoOp")]))
    found = {c.measure: c.found for c in compare(scores, [("CoOp", "QCoOp")])}
    assert text.startswith("QCoOp against CoOp, 8 data sets or draws: base ")
    for measure in ("Base", "New"):
        f = found[measure]
        assert f"{measure.lower()} {f.mean:+.1f} points (95% interval {f.low:+.1f} to {f.high:+.1f})" in text
    assert "Base accuracy is lower beyond chance; new accuracy is higher beyond chance" in text
    assert ("the difference in H may be chance" in text) == (found["H"].p >= 0.05)
    (few,) = conclusions(compare([s for s in scores if s.draw < 3], [("CoOp", "QCoOp")]))
    assert "too few data sets or draws to tell a difference from chance" in few and "beyond chance" not in few


def comparison_of(differences):
    found = paired(differences)
    return Comparison("CoOp", "QCoOp", "New", 16, "datasets", True, found), found


def test_conclusions_say_when_test_and_interval_disagree():
    comparison, found = comparison_of([5, 6, 7, 5.5, 6.5, -0.1])
    assert found.p == 0.0625 and found.low > 0
    (text,) = conclusions([comparison])
    assert (
        "The difference in new may be chance by the signed-rank test (p = 0.062), although the interval excludes zero "
        "(about " in text
    )
    comparison, found = comparison_of([1 + i / 10 for i in range(11)] + [-12])
    assert found.p < 0.05 and found.low < 0 < found.high
    (text,) = conclusions([comparison])
    assert (
        f"New accuracy is higher beyond chance by the signed-rank test (p = {found.p:.2g}), but the interval contains "
        "zero." in text
    )
    comparison, found = comparison_of([5, 6, 7, 5.5, 6.5, 0.1])
    (text,) = conclusions([comparison])
    assert found.p < 0.05 and found.low > 0 and text.endswith("New accuracy is higher beyond chance.")


# published figures

DATASETS = ("ImageNet", "Caltech101", "OxfordPets", "StanfordCars", "OxfordFlowers", "Food101", "FGVCAircraft",
            "SUN397", "DescribableTextures", "EuroSAT", "UCF101")  # fmt: skip


def write_eleven(folder, datasets=DATASETS, backbone="ViT-B/16", **settings):
    for dataset in datasets:
        more = {"backbone": backbone, "settings": settings}
        write_run(folder / f"{dataset}/base", "QCoOp", dataset, accuracy=81.0, prompt={"payload_bytes": 260}, **more)
        train = str(folder / f"{dataset}/base")
        write_run(
            folder / f"{dataset}/new", "QCoOp", dataset, mode="eval", classes="new", accuracy=75.0, model_dir=train
        )
    return pair(read_runs([folder])[0])[0]


def rows(scores, title, **options):
    table = next(t for t in published_tables(scores, **options) if title in t.title)
    return table, {row[0]: row[1:] for row in table.rows}


def test_published_h_is_the_harmonic_mean_of_published_columns():
    """A guard on the copied digits: where base, new and H stand together they agree (to the paper's rounding)."""
    checked = 0
    for row in (row for table in published()["tables"] for row in table["rows"]):
        if {"base", "new", "h"} <= row.keys():
            assert row["h"] == pytest.approx(2 * row["base"] * row["new"] / (row["base"] + row["new"]), abs=0.02), row
            checked += 1
    assert checked == 12


def test_complete_run_is_shown_beside_the_published_numbers(tmp_path):
    table, found = rows(write_eleven(tmp_path), "average of 11")
    row = found["QCoOp, 1 bit"]
    assert row[:3] == [Stat(80.68), Stat(81.0), Stat(pytest.approx(0.32))]
    assert row[-2:] == ["0.26 KB", 260]
    assert found["CoOp"][1] == "not run" and found["CoOp"][2] is None
    assert has_measured(table)


@pytest.mark.parametrize("change", [{"datasets": DATASETS[1:]}, {"backbone": "ViT-B/32"}, {"TRAINER.QUANT.BITS": 2}])
def test_other_runs_are_not_compared(tmp_path, change):
    table, found = rows(write_eleven(tmp_path, **change), "average of 11")
    assert found["QCoOp, 1 bit"][1] == "not run" and not has_measured(table)


def test_missing_data_sets_are_named(tmp_path):
    table, _ = rows(write_eleven(tmp_path, DATASETS[1:]), "average of 11")
    assert any("10 of the paper's 11 data sets" in note for note in table.notes)


def test_ablations_are_matched_by_their_settings(tmp_path):
    scores = write_eleven(tmp_path, **{"TRAINER.QUANT.MODE": "ptq"})
    _, found = rows(scores, "during or after")
    assert found["QAT"][1] == "not run" and found["PTQ"][1] == Stat(81.0)


def test_slip_runs_are_recognized_by_their_file(tmp_path):
    scores = write_eleven(tmp_path, **{"MODEL.BACKBONE.PATH": "/weights/SLIP_base.pt"})
    assert rows(scores, "average of 11")[1]["QCoOp, 1 bit"][1] == "not run"
    assert rows(scores, "SLIP")[1]["QCoOp, 1 bit"][1] == Stat(75.0)


def test_runs_on_other_data_are_marked(tmp_path):
    scores = pair(read_runs([write_base2new(tmp_path)])[0])[0]
    table, found = rows(scores, "average of 11", anywhere=True)
    assert found["CoOp"][1].mean == pytest.approx(85, abs=2)
    assert "not a reproduction" in table.title and any("TinyWorld, tiny" in note for note in table.notes)
    assert rows(scores, "SLIP", anywhere=True)[1]["CoOp"][1] == "not run"  # that table is about the backbone


def test_published_tables_print_on_request(tmp_path, capsys):
    write_base2new(tmp_path)
    main(["report", str(tmp_path)])
    assert "Published" not in capsys.readouterr().out
    main(["report", str(tmp_path), "--published"])
    assert "not run" in capsys.readouterr().out


# the page


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_self_contained_and_escaped(tmp_path):
    write_run(tmp_path, "<Mean & Co>")
    runs, _ = read_runs([tmp_path])
    table = Table("T", [Column("Method"), Column("H", "percent", "high")], [["<b>", Stat(1.0, 0.5, 2)], ["x", None]])
    shown = page([table], {"one": ("A caption", b"<svg/>")}, [], runs, ["<warned>"])
    parser = _Links()
    parser.feed(shown)
    assert parser.open == []
    assert parser.sources == ["data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()]
    assert not re.search(r"https?://|@import|url\(", shown)
    assert "&lt;b&gt;" in shown and "&lt;warned&gt;" in shown and "&lt;Mean &amp; Co&gt;" in shown
    assert 'data-value="1.0"' in shown and "± 0.50" in shown


def test_page_is_written_with_its_figures(tmp_path):
    pytest.importorskip("matplotlib")
    write_base2new(tmp_path / "runs", curves=True)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    shown = (tmp_path / "out/report.html").read_text()
    assert shown.count("<img") == 2 and "Published" not in shown
