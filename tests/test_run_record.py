"""Who may write to an output folder, and what a finished run says of itself."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from qprompt.errors import UserError
from qprompt.io.files import atomic_open, write_json
from qprompt.runs import record as run_record

SETTINGS = {"config": {"OPTIM.LR": 0.002}, "arguments": {"mode": "train"}}


def test_unfinished_run_is_taken_up_again(tmp_path):
    for _ in range(2):
        with run_record.claim(str(tmp_path), SETTINGS):
            assert json.loads((tmp_path / run_record.CONFIG).read_text())["settings"] == SETTINGS


def test_unfinished_run_with_other_settings_is_refused_with_the_difference(tmp_path):
    with run_record.claim(str(tmp_path), SETTINGS):
        pass
    other = {"config": {"OPTIM.LR": 0.5}, "arguments": {"mode": "train"}}
    with pytest.raises(UserError, match=r"OPTIM.LR: 0.002 there, 0.5 now"), run_record.claim(str(tmp_path), other):
        pass


def _settings(**config):
    return {"config": config, "arguments": {"mode": "train"}}


def test_run_of_a_version_that_lacks_a_key_is_taken_up_where_that_key_has_its_default(tmp_path):
    with run_record.claim(str(tmp_path), _settings(LR=0.002), _settings(LR=0.1)):
        pass
    with run_record.claim(str(tmp_path), _settings(LR=0.002, NEW=1), _settings(LR=0.1, NEW=1)):
        pass
    with (
        pytest.raises(UserError, match="config.NEW: 1 there, 2 now"),
        run_record.claim(str(tmp_path), _settings(LR=0.002, NEW=2), _settings(LR=0.1, NEW=1)),
    ):
        pass


def test_how_features_were_kept_makes_no_other_run_unless_the_views_were_fixed(tmp_path):
    default = _settings(FEATURE_CACHE="auto")
    for value in ("epochs", "auto", "off"):
        with run_record.claim(str(tmp_path), _settings(FEATURE_CACHE=value), default):
            pass
    views = run_record.claim(str(tmp_path), _settings(FEATURE_CACHE="8 views"), default)
    with pytest.raises(UserError, match="FEATURE_CACHE: 'epochs' there, '8 views' now"), views:
        pass


def test_key_that_is_gone_counts_if_it_was_set(tmp_path):
    with run_record.claim(str(tmp_path), _settings(LR=0.002, OLD=1), _settings(LR=0.1, OLD=1)):
        assert json.loads((tmp_path / run_record.CONFIG).read_text())["changed"] == {"LR": 0.002}
    now = _settings(LR=0.002), _settings(LR=0.1)
    with run_record.claim(str(tmp_path), *now):
        pass
    (tmp_path / run_record.CONFIG).unlink()
    with run_record.claim(str(tmp_path), _settings(LR=0.002, OLD=5), _settings(LR=0.1, OLD=1)):
        pass
    with pytest.raises(UserError, match="config.OLD: 5 there, None now"), run_record.claim(str(tmp_path), *now):
        pass


@pytest.mark.parametrize("record", [{"schema": 2, "settings": {}}, {"schema": 1}, {"schema": 1, "settings": []}])
def test_record_of_another_schema_is_refused(tmp_path, record):
    write_json(tmp_path / run_record.CONFIG, record)
    with pytest.raises(UserError, match="schema"), run_record.claim(str(tmp_path), SETTINGS):
        pass


def test_leftovers_of_a_killed_run_are_removed_and_not_those_of_runs_below(tmp_path):
    for name in ("mine/.model.x1.tmp", ".metrics.json.x2.tmp", "other/.lock", "other/.model.x3.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with run_record.claim(str(tmp_path), SETTINGS):
        assert [p.name for p in tmp_path.rglob("*.tmp")] == [".model.x3.tmp"]


def test_lock_ends_with_its_process_whatever_workers_it_has_forked(tmp_path):
    fork = "import os, sys, time; from qprompt.runs.record import claim\n"
    fork += "with claim(sys.argv[1], {}):\n"
    fork += "    if os.fork(): os.kill(os.getpid(), 9)\n"
    fork += "    print(os.getpid(), flush=True); sys.stdin.read()"
    first = subprocess.Popen(
        [sys.executable, "-c", fork, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() and first.wait() == -9
    with run_record.claim(str(tmp_path), {}):
        pass
    first.communicate()  # its worker lived until here


def test_finished_run_is_not_overwritten(tmp_path):
    write_json(tmp_path / run_record.METRICS, {"trainer": "CoOp", "seed": 1, "results": {"accuracy": 80.0}})
    with pytest.raises(UserError, match="finished run .*CoOp.*80.0"), run_record.claim(str(tmp_path), SETTINGS):
        pass


def test_second_run_is_refused_while_the_first_lives_and_not_after(tmp_path):
    hold = "import sys; from qprompt.runs.record import claim\n"
    hold += "with claim(sys.argv[1], {}): print('held', flush=True); input()"
    first = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another run"), run_record.claim(str(tmp_path), {}):
            pass
    finally:
        first.kill()
        first.communicate()
    with run_record.claim(str(tmp_path), {}):
        pass


def test_folder_under_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), run_record.claim(str(tmp_path / "file" / "out"), SETTINGS):
        pass


def test_evaluations_keep_what_the_evaluator_returned():
    evaluator = SimpleNamespace(evaluate=lambda: {"accuracy": 50.0}, _correct=1, _total=2)
    trainer = SimpleNamespace(evaluator=evaluator)
    evaluations = run_record.Evaluations(trainer)
    assert trainer.evaluator.evaluate() == {"accuracy": 50.0}
    assert evaluations.last == {"accuracy": 50.0, "correct": 1, "total": 2}


def _dataset(root, label=0):
    item = SimpleNamespace(impath=os.path.join(root, "cat", "1.png"), label=label, classname="cat")
    return SimpleNamespace(train_x=[item], val=None, test=[item])


def test_dataset_hash_follows_items_not_the_root():
    first = run_record.dataset_hash(_dataset("/a"), "/a")
    assert first == run_record.dataset_hash(_dataset("/b/c"), "/b/c")
    assert first != run_record.dataset_hash(_dataset("/a", label=1), "/a")


def test_dataset_hash_is_the_one_that_earlier_versions_recorded():
    rows = [("x/1.jpg", 0, "cat"), ("x/2.jpg", 1, "\u00f6 d"), ("3.jpg", 1, "\u00f6 d")]
    items = [SimpleNamespace(impath=f"/a/{path}", label=label, classname=name) for path, label, name in rows]
    dataset = SimpleNamespace(train_x=items[:2], val=None, test=items[2:])
    expected = "638329d639a168465eacb4a3e83f3edcbdbf47efc2e28130e36367a3f0aa32ff"
    assert run_record.dataset_hash(dataset, "/a") == expected


def test_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_open(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
    with atomic_open(path) as file:
        file.write(b"new")
    assert path.read_text() == "new"


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "m.json", {"accuracy": float("nan")})
    assert not os.listdir(tmp_path)
