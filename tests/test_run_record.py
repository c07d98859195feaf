"""Who may write to an output folder, and what a finished run says of itself."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from qprompt import run_record
from qprompt.errors import UserError
from qprompt.files import atomic_open, write_json

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


def test_finished_run_is_not_overwritten(tmp_path):
    write_json(tmp_path / run_record.METRICS, {"trainer": "CoOp", "seed": 1, "results": {"accuracy": 80.0}})
    with pytest.raises(UserError, match="finished run .*CoOp.*80.0"), run_record.claim(str(tmp_path), SETTINGS):
        pass


def test_second_run_is_refused_while_the_first_lives_and_not_after(tmp_path):
    hold = "import sys; from qprompt.run_record import claim\n"
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"), run_record.claim(str(tmp_path / "out"), SETTINGS):
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


def test_split_hash_follows_items_not_the_root():
    first = run_record.split_hash(_dataset("/a"), "/a")
    assert first == run_record.split_hash(_dataset("/b/c"), "/b/c")
    assert first != run_record.split_hash(_dataset("/a", label=1), "/a")


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
