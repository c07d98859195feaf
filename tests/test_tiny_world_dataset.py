"""TinyWorld as files and as a Dassl data set."""

import json
import threading

import numpy as np
import pytest
from PIL import Image

from qprompt.errors import UserError
from qprompt.world import fewshot, files


@pytest.fixture
def small(monkeypatch):
    """A data set of few images: these tests do not depend on their number."""
    monkeypatch.setattr(fewshot, "COUNTS", {"train": 3, "val": 1, "test": 2})


@pytest.fixture
def make(small, tmp_path):
    from qprompt import engine

    engine.activate()
    from dassl.config import get_cfg_default
    from dassl.data.datasets import build_dataset

    import datasets.tiny_world  # noqa: F401
    from qprompt.training.defaults import extend_cfg

    def build(**keys):
        cfg = get_cfg_default()
        extend_cfg(cfg)
        cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.SEED = "TinyWorld", str(tmp_path / "data"), 1
        for key, value in keys.items():
            cfg.DATASET[key] = value
        return build_dataset(cfg)

    return build


def test_base_and_new_halves(make):
    every = make()
    base, new = make(SUBSAMPLE_CLASSES="base", NUM_SHOTS=2), make(SUBSAMPLE_CLASSES="new")
    assert every.num_classes == 30 and base.num_classes == new.num_classes == 15
    assert base.classnames + new.classnames == every.classnames
    assert len(base.train_x) == 30 and len(base.test) == 30
    assert {d.label for d in new.test} == set(range(15))


def test_files_hold_the_rendered_images(make):
    data = make(DRAW=3)
    item = data.test[0]
    noun = fewshot.classes_of(3)[item.label]
    with Image.open(item.impath) as image:
        assert np.array_equal(np.asarray(image), fewshot.render_image(3, noun, "test", 0))


def test_data_root_is_required(make):
    with pytest.raises(UserError, match="--root"):
        make(ROOT="")


def test_draws_have_different_folders_and_are_written_once(small, tmp_path):
    first, second = files.ensure_drawn(tmp_path, 0), files.ensure_drawn(tmp_path, 1)
    assert first != second
    before = (first / "world.json").stat().st_mtime_ns
    assert files.ensure_drawn(tmp_path, 0) == first
    assert (first / "world.json").stat().st_mtime_ns == before
    hashes = [json.loads((f / "world.json").read_text())["pixels_sha256"] for f in (first, second)]
    assert hashes[0] != hashes[1]


def test_concurrent_starts_give_one_whole_folder(small, tmp_path):
    results = []
    threads = [threading.Thread(target=lambda: results.append(files.ensure_drawn(tmp_path, 2))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "tiny_world" / "draw_2"] * 3
    assert sorted(p.name for p in (tmp_path / "tiny_world").iterdir()) == [".draw_2.lock", "draw_2"]
    assert len(list(results[0].rglob("*.png"))) == 30 * 6


def test_interrupted_run_leaves_no_partial_folder(small, tmp_path, monkeypatch):
    def some(number, real=fewshot.images):
        yield from (image for _, image in zip(range(5), real(number), strict=False))
        raise KeyboardInterrupt

    monkeypatch.setattr(fewshot, "images", some)
    with pytest.raises(KeyboardInterrupt):
        files.ensure_drawn(tmp_path, 0)
    assert [p.name for p in (tmp_path / "tiny_world").iterdir()] == [".draw_0.lock"]


def test_leftovers_of_a_killed_run_are_removed(small, tmp_path):
    left = tmp_path / "tiny_world/.draw_0.tmp/images/left.png"
    left.parent.mkdir(parents=True)
    left.touch()
    folder = files.ensure_drawn(tmp_path, 0)
    assert not list(tmp_path.rglob("left.png")) and not list(tmp_path.rglob("*.tmp"))
    assert len(list(folder.rglob("*.png"))) == 30 * 6


def test_errors_are_explained(small, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="0 or more"):
        files.ensure_drawn(tmp_path, -1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--root"):
        files.ensure_drawn(tmp_path / "file", 0)
    folder = files.ensure_drawn(tmp_path, 0)
    monkeypatch.setattr(files, "RECIPE", 999)
    with pytest.raises(UserError, match="is from recipe 1, expected 999. Delete it"):
        files.ensure_drawn(tmp_path, 0)
    (folder / "world.json").unlink()
    with pytest.raises(UserError, match="is not a TinyWorld data set"):
        files.ensure_drawn(tmp_path, 0)


@pytest.mark.slow
def test_draw_0_is_the_published_one(tmp_path):
    folder = files.ensure_drawn(tmp_path, 0)
    assert json.loads((folder / "world.json").read_text())["pixels_sha256"] == files.PIXELS_OF_DRAW_0
