"""Reading metrics.json files that are damaged, of another program, missing, repeated or unfinished."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_runs import write_base2new, write_run

from qprompt.__main__ import main
from qprompt.errors import UserError
from qprompt.report import render
from qprompt.report.accuracy import accuracy_tables
from qprompt.report.records import read_runs
from qprompt.report.scores import pair
from qprompt.runs.folder import claim
from qprompt.runs.identity import RunSettings
from qprompt.runs.metrics import NOT_UNSEEN, TOO_HIGH


@pytest.fixture
def finished(tmp_path):
    """A folder of finished runs: zero-shot on base and new, CoOp trained and tested on both."""
    return write_base2new(tmp_path / "runs", trainers=("ZeroshotCLIP", "CoOp"), seeds=(1,))


def whole(**changed):
    data = {"schema": 1, "trainer": "CoOp", "mode": "train", "classes": "base", "dataset": "D", "seed": 1, "shots": 16}
    return json.dumps(data | changed)


BROKEN = {
    "truncated": whole()[:20],
    "binary": "\x00\x01",
    "list": "[1, 2]",
    "foreign": '{"loss": 0.1}',
    "newer": whole(schema=2),
    "nan": whole(results={"accuracy": math.nan}),
    "above 100": whole(results={"accuracy": 101}),
    "no results": whole(),
    "seed": whole(seed=True, results={"accuracy": 1}),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_files_are_named_and_left_out(finished, name, capsys):
    folder = finished / "broken"
    folder.mkdir()
    (folder / "metrics.json").write_text(BROKEN[name])
    assert main(["report", str(finished)]) == 0
    captured = capsys.readouterr()
    assert f"{folder}/metrics.json" in captured.err and captured.err.count("\n") == 1
    assert "CoOp" in captured.out


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
ENTRIES = ("results", "mode", "classes", "seed", "config", "changed", "curve", "prompt", "model_dir", "load_epoch")


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(ENTRIES), json_values))
def test_no_content_of_metrics_json_gives_a_traceback(tmp_path_factory, changed):
    folder = tmp_path_factory.mktemp("fuzz")
    write_run(folder / "good")
    write_run(folder / "bad", **changed)
    tables = accuracy_tables(pair(read_runs([folder])[0])[0])
    for shown in (render.text, render.markdown, render.latex, render.csv_text):
        shown(tables)


def test_no_runs_and_missing_folders_are_user_errors(tmp_path, capsys):
    with pytest.raises(UserError, match="no finished run"):
        read_runs([tmp_path])
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_unfinished_runs_are_named(finished, capsys):
    unfinished = finished / "unfinished"
    with claim(str(unfinished), RunSettings.of({}, {}, "train")):
        pass
    assert main(["report", str(finished)]) == 0
    assert f"{unfinished} is not finished" in capsys.readouterr().err


def test_accuracies_that_are_too_high_are_said_beside_the_tables(tmp_path, capsys):
    leak = f"the epoch was chosen on the 6 images that are reported: {TOO_HIGH}"
    for seed, deviations in enumerate(([leak, "fixed views"], [leak], [f"the prompt knows them: {NOT_UNSEEN}"], [])):
        write_run(tmp_path / f"run{seed}", seed=seed, deviations=deviations)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    lines = [f"{tmp_path}/run0 and 1 more: {leak}.", f"{tmp_path}/run2: the prompt knows them: {NOT_UNSEEN}."]
    assert capsys.readouterr().err.splitlines()[:2] == [f"Warning: {line}" for line in lines]
    assert TOO_HIGH in (tmp_path / "report/report.html").read_text(encoding="utf-8")


def test_links_and_repeated_paths_count_a_run_once(finished):
    (finished / "loop").symlink_to(finished)
    runs, _ = read_runs([finished, finished / "train_base", next(finished.rglob("metrics.json"))])
    assert len(runs) == 5
