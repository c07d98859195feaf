"""Who may write to an output folder, which runs are the same run, and what a finished run records."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from qprompt.errors import AlreadyFinished, UserError
from qprompt.io.files import atomic_open, write_json
from qprompt.runs import finish
from qprompt.runs.folder import claim, finished, is_unfinished
from qprompt.runs.identity import RunSettings
from qprompt.runs.metrics import Metrics, read_metrics, write_metrics
from qprompt.runs.record import CONFIG, METRICS

DONE = Metrics(
    mode="train",
    trainer="CoOp",
    dataset="DTD",
    seed=1,
    shots=16,
    classes="base",
    results={"accuracy": 80.0},
    config={"OPTIM": {"LR": 0.002}},
    changed={"OPTIM.LR": 0.002},
)


def settings(config, defaults=(), mode="train", **arguments):
    return RunSettings.of(config, dict(defaults), mode, **arguments)


SETTINGS = settings({"OPTIM": {"LR": 0.002}}, {"OPTIM": {"LR": 0.1}})


def save_checkpoint(folder):
    (folder / "prompt_learner").mkdir(exist_ok=True)
    (folder / "prompt_learner/model.pth.tar-1").touch()


def start(folder, *args, **kwargs):
    """Start the run with these settings in `folder`, and stop it after its first checkpoint."""
    with claim(str(folder), settings(*args, **kwargs)):
        save_checkpoint(folder)
        return json.loads((folder / CONFIG).read_text())


def test_unfinished_run_is_resumed(tmp_path):
    for _ in range(2):
        with claim(str(tmp_path), SETTINGS):
            written = json.loads((tmp_path / CONFIG).read_text())
        assert written["settings"]["config"] == {"OPTIM.LR": 0.002}
        assert written["settings"]["arguments"] == {"mode": "train", "model_dir": "", "load_epoch": None}
        assert RunSettings.read(tmp_path / CONFIG).differences(SETTINGS) == {}
        assert is_unfinished(tmp_path)


def test_unfinished_run_with_other_settings_is_refused_with_the_difference(tmp_path):
    start(tmp_path, {"OPTIM": {"LR": 0.002}})
    with pytest.raises(UserError, match=r"an unfinished run with other settings \(OPTIM.LR: 0.002 there, 0.5 now\)"):
        start(tmp_path, {"OPTIM": {"LR": 0.5}})
    with pytest.raises(UserError, match=r"mode: 'train' there, 'eval' now"):
        start(tmp_path, {"OPTIM": {"LR": 0.002}}, mode="eval")


def test_folder_without_a_checkpoint_belongs_to_nobody(tmp_path):
    for rate in (0.002, 0.5):
        with claim(str(tmp_path), settings({"OPTIM": {"LR": rate}})):
            assert json.loads((tmp_path / CONFIG).read_text())["settings"]["config"] == {"OPTIM.LR": rate}


def test_key_that_the_record_lacks_had_its_default(tmp_path):
    start(tmp_path, {"LR": 0.002}, {"LR": 0.1})
    start(tmp_path, {"LR": 0.002, "NEW": 1}, {"LR": 0.1, "NEW": 1})
    with pytest.raises(UserError, match="NEW: 1 there, 2 now"):
        start(tmp_path, {"LR": 0.002, "NEW": 2}, {"LR": 0.1, "NEW": 1})


def test_feature_cache_makes_another_run_only_with_fixed_views(tmp_path):
    for value in ("epochs", "auto", "off"):
        start(tmp_path, {"FEATURE_CACHE": value}, {"FEATURE_CACHE": "auto"})
    with pytest.raises(UserError, match="FEATURE_CACHE: 'epochs' there, '8 views' now"):
        start(tmp_path, {"FEATURE_CACHE": "8 views"}, {"FEATURE_CACHE": "auto"})


def test_key_that_this_version_lacks_counts_if_it_was_set(tmp_path):
    assert start(tmp_path, {"LR": 0.002, "OLD": 1}, {"LR": 0.1, "OLD": 1})["changed"] == {"LR": 0.002}
    start(tmp_path, {"LR": 0.002}, {"LR": 0.1})
    (tmp_path / CONFIG).unlink()
    start(tmp_path, {"LR": 0.002, "OLD": 5}, {"LR": 0.1, "OLD": 1})
    with pytest.raises(UserError, match="OLD: 5 there, None now"):
        start(tmp_path, {"LR": 0.002}, {"LR": 0.1})


def test_keys_without_effect_are_not_recorded(tmp_path):
    config = {"DATASET": {"ROOT": "a", "NAME": "DTD"}, "OUTPUT_DIR": "b"}
    assert start(tmp_path, config)["settings"]["config"] == {"DATASET.NAME": "DTD"}


def test_evaluations_of_other_checkpoints_are_other_runs(tmp_path):
    (tmp_path / "b").symlink_to("a")
    first = settings({}, mode="eval", model_dir=str(tmp_path / "a"), load_epoch=2)
    same = settings({}, mode="eval", model_dir=f"{tmp_path}/b/", load_epoch=2)
    other = settings({}, mode="eval", model_dir=str(tmp_path / "c"), load_epoch="all")
    assert first.differences(same) == {}
    assert first.differences(other) == {
        "--load-epoch": ("all", 2),
        "--model-dir": (str(tmp_path / "c"), str(tmp_path / "a")),
    }


@pytest.mark.parametrize("record", [{"schema": 2, "settings": {}}, {"schema": 1}, {"schema": 1, "settings": []}])
def test_record_of_another_schema_is_refused(tmp_path, record):
    write_json(tmp_path / CONFIG, record)
    save_checkpoint(tmp_path)
    with pytest.raises(UserError, match="schema"), claim(str(tmp_path), SETTINGS):
        pass


def test_config_of_another_program_is_not_an_unfinished_run(tmp_path):
    for text in ('{"model_type": "clip"}', "[]", "{"):
        (tmp_path / CONFIG).write_text(text)
        assert not is_unfinished(tmp_path)


def test_leftovers_of_a_killed_run_are_removed_and_not_those_of_runs_below(tmp_path):
    for name in ("mine/.model.x1.tmp", ".metrics.json.x2.tmp", "other/.lock", "other/.model.x3.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with claim(str(tmp_path), SETTINGS):
        assert [p.name for p in tmp_path.rglob("*.tmp")] == [".model.x3.tmp"]


HOLD = """
import os, sys
from qprompt.runs.folder import claim
from qprompt.runs.identity import RunSettings

with claim(sys.argv[1], RunSettings.of({}, {}, "train")):
"""


def held_by(code, folder):
    """A process that runs `code` while it holds `folder`."""
    command = [sys.executable, "-c", HOLD + f"    {code}", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_lock_ends_with_its_process_whatever_workers_it_has_forked(tmp_path):
    fork = "os.fork() and os.kill(os.getpid(), 9); print(os.getpid(), flush=True); sys.stdin.read()"
    first = held_by(fork, tmp_path)
    assert first.stdout.readline() and first.wait() == -9
    start(tmp_path, {})
    first.communicate()  # its worker lived until here


def test_second_run_is_refused_while_the_first_lives_and_not_after(tmp_path):
    first = held_by("print('held', flush=True); input()", tmp_path)
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another run"):
            start(tmp_path, {})
    finally:
        first.kill()
        first.communicate()
    start(tmp_path, {})


def test_finished_run_is_not_overwritten(tmp_path):
    write_metrics(tmp_path, DONE)
    assert not is_unfinished(tmp_path) and finished(tmp_path, SETTINGS) == DONE
    with pytest.raises(AlreadyFinished, match="finished run .*CoOp.*80.0"), claim(str(tmp_path), SETTINGS):
        pass
    with pytest.raises(UserError, match="a finished run with other settings .*OPTIM.LR: 0.002 there, 0.1 now"):
        start(tmp_path, {"OPTIM": {"LR": 0.1}})


def test_metrics_are_read_as_they_were_written(tmp_path):
    path = write_metrics(tmp_path, DONE)
    assert path.name == METRICS and read_metrics(path) == DONE
    written = json.loads(path.read_text())
    assert list(written)[:4] == ["schema", "finished", "mode", "trainer"] and list(written)[-1] == "config"
    assert not written.keys() & {"model_dir", "load_epoch", "curve", "deviations", "prompt"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "test"}, "mode is 'test', expected train or eval"),
        ({"classes": "old"}, "classes is 'old', expected all, base or new"),
        ({"seed": True}, "seed is True, expected int"),
        ({"trainer": 1}, "trainer is 1, expected str"),
        ({"results": None}, "results is None, expected dict"),
        ({"results": {"accuracy": 100.5}}, "results.accuracy is 100.5, expected percent"),
        ({"results": {"accuracy": float("nan")}}, "results.accuracy is nan, expected"),
        ({"load_epoch": 1.5}, "load_epoch is 1.5, expected"),
        ({"time_s": 10**400}, "time_s is 1000"),
        ({"prompt": {"payload_bytes": "68"}}, "prompt.payload_bytes is '68', expected"),
        ({"curve": [{"epoch": 1}]}, "curve.accuracy is None, expected float"),
        ({"curve": [3]}, "an entry of curve is 3, expected dict"),
        ({"config": {"DATASET": {"DRAW": "0"}}}, "config.DATASET.DRAW is '0', expected int"),
        ({"schema": 2}, "it has schema 2, this version of qprompt reads 1"),
        ({"schema": None}, "it has schema None"),
    ],
)
def test_metrics_out_of_bounds_are_named(tmp_path, changed, message):
    path = tmp_path / METRICS
    path.write_text(json.dumps(DONE.to_json() | changed))
    with pytest.raises(UserError) as error:
        read_metrics(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_writer_has_the_bounds_of_the_reader():
    with pytest.raises(ValueError, match="results.accuracy is 101"):
        Metrics.from_json(DONE.to_json() | {"results": {"accuracy": 101}})


def test_folder_under_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        start(tmp_path / "file" / "out", {})


def test_evaluations_record_the_results_of_the_evaluator():
    evaluator = SimpleNamespace(evaluate=lambda: {"accuracy": 50.0}, _correct=1, _total=2)
    trainer = SimpleNamespace(evaluator=evaluator)
    evaluations = finish.Evaluations(trainer)
    assert trainer.evaluator.evaluate() == {"accuracy": 50.0}
    assert evaluations.last == {"accuracy": 50.0, "correct": 1, "total": 2}


def _dataset(root, label=0):
    item = SimpleNamespace(impath=os.path.join(root, "cat", "1.png"), label=label, classname="cat")
    return SimpleNamespace(train_x=[item], val=None, test=[item])


def test_dataset_hash_follows_items_not_the_root():
    first = finish.dataset_hash(_dataset("/a"), "/a")
    assert first == finish.dataset_hash(_dataset("/b/c"), "/b/c")
    assert first != finish.dataset_hash(_dataset("/a", label=1), "/a")


def test_dataset_hash_is_the_one_that_earlier_versions_recorded():
    rows = [("x/1.jpg", 0, "cat"), ("x/2.jpg", 1, "\u00f6 d"), ("3.jpg", 1, "\u00f6 d")]
    items = [SimpleNamespace(impath=f"/a/{path}", label=label, classname=name) for path, label, name in rows]
    dataset = SimpleNamespace(train_x=items[:2], val=None, test=items[2:])
    expected = "638329d639a168465eacb4a3e83f3edcbdbf47efc2e28130e36367a3f0aa32ff"
    assert finish.dataset_hash(dataset, "/a") == expected


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
