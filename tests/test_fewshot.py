"""The few-shot protocol and its caches: safe for concurrent runs, ignored if they do not match."""

import json
import os
import pickle
import random
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from qprompt.data import fewshot
from qprompt.data.coop_pickle import read_records
from qprompt.data.items import Item, Split, class_names, draw_shots, split_hash, subset_classes
from qprompt.data.layouts import LAYOUTS
from qprompt.data.split_file import read_split
from qprompt.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
items_of = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(
    lambda labels: [Item(f"{k}.jpg", label, f"class {label}") for k, label in enumerate(labels)]
)


def load(root, name="EuroSAT", shots=4, seed=1, subset="all", **options):
    return fewshot.load(LAYOUTS[name].source(root), shots, seed, subset, **options)


# ---- the protocol


@settings(deadline=None)
@given(items_of, st.integers(1, 20), st.integers(0, 99))
def test_draw_takes_each_class_in_order_of_first_appearance(items, shots, seed):
    drawn = draw_shots(items, shots, random.Random(seed))
    assert drawn == draw_shots(items, shots, random.Random(seed))
    assert len(set(drawn)) == len(drawn)
    sizes = {label: sum(i.label == label for i in items) for label in dict.fromkeys(i.label for i in items)}
    expected = [label for label, size in sizes.items() for _ in range(min(size, shots))]
    assert [i.label for i in drawn] == expected


@settings(deadline=None)
@given(items_of)
def test_base_and_new_are_the_two_halves_of_the_classes(items):
    whole = Split(items, items, items)
    labels = sorted({i.label for i in items})
    base = subset_classes(whole, "base")
    assert subset_classes(whole, "all") is whole
    assert sorted({i.label for i in base.train}) == list(range(-(-len(labels) // 2)))
    if len(labels) > 1:
        new = subset_classes(whole, "new")
        assert {i.path for i in base.test} | {i.path for i in new.test} == {i.path for i in items}
        assert {i.classname for i in base.val}.isdisjoint(i.classname for i in new.val)
        assert sorted({i.label for i in new.train}) == list(range(len(labels) // 2))
    else:
        with pytest.raises(UserError, match="new needs at least 2 classes"):
            subset_classes(whole, "new")


def test_unknown_subset_is_named(tmp_path):
    trees.build(tmp_path, "EuroSAT")
    with pytest.raises(UserError, match="'Base': expected one of all, base, new. Did you mean 'base'"):
        load(tmp_path, subset="Base")


def test_class_names_need_labels_without_gaps():
    assert class_names([Item("a", 1, "one"), Item("b", 0, "nought")]) == ["nought", "one"]
    with pytest.raises(UserError, match="label 0 has no training image, but label 1 has. Are the labels 1-based"):
        class_names([Item("a", 1, "one")])
    with pytest.raises(UserError, match="label 1 has no training image, but label 2 has"):
        class_names([Item("a", 0, "x"), Item("b", 2, "y")])
    with pytest.raises(UserError, match="two class names"):
        class_names([Item("a", 0, "x"), Item("b", 0, "y")])


def test_split_hash_depends_on_every_part():
    a, b = Item("a", 0, "x"), Item("b", 0, "x")
    splits = [Split([a], [], [b]), Split([a], [b], []), Split([b], [], [a]), Split([a._replace(label=1)], [], [b])]
    assert len({split_hash(s) for s in splits}) == 4
    assert split_hash(Split((a,), [], [b])) == split_hash(splits[0])


def test_split_hash_is_the_one_in_existing_caches():
    items = [Item("x/1.jpg", 0, "cat"), Item("x/2.jpg", 1, "\u00f6 d"), Item("3.jpg", 1, "\u00f6 d")]
    expected = "e67b0ecd6ad6e71d7b379bb1f3bb1fe3fc12fa023ba91eab158189b206c26162"
    assert split_hash(Split(items[:2], [], items[2:])) == expected


# ---- caches


def test_cached_draw_has_relative_paths_and_survives_a_move(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    trees.build(old, "EuroSAT")
    first = load(old)
    cached = list((old / "eurosat/split_fewshot").iterdir())
    assert len(cached) == 1 and cached[0].name.startswith("shot_4-seed_1-") and cached[0].suffix == ".json"
    assert str(old) not in cached[0].read_text()
    os.umask(umask := os.umask(0))
    assert stat.S_IMODE(cached[0].stat().st_mode) == 0o666 & ~umask  # readable for others, like any file
    old.rename(new)
    assert load(new) == first


def test_cached_draw_is_used(tmp_path):
    folder = trees.build(tmp_path, "EuroSAT", split=False)
    first = load(tmp_path)  # this draw continues the random stream of the split: it cannot be repeated
    assert load(tmp_path) == first
    for file in (folder / "split_fewshot").iterdir():
        file.unlink()
    assert load(tmp_path) != first


def test_edited_split_causes_a_new_draw_and_a_warning(tmp_path, caplog):
    folder = trees.build(tmp_path, "EuroSAT")
    load(tmp_path)
    file = folder / "split_zhou_EuroSAT.json"
    data = json.loads(file.read_text())
    data["train"].pop()
    file.write_text(json.dumps(data))
    split = load(tmp_path)
    assert "Not used" in caplog.text
    full = read_split(file)
    assert split.train == draw_shots(full.train, 4, random.Random(1))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"format": 1', '"format": 99'),
        lambda text: text.replace('"split": "', '"split": "0'),
        lambda text: text.replace(".jpg", ".gif", 1),
        lambda text: text.replace(', "', ', "not ', 1),
    ],
)
def test_damaged_cached_draw_is_ignored_with_a_warning_and_replaced(tmp_path, caplog, damage):
    trees.build(tmp_path, "EuroSAT")
    first = load(tmp_path)
    (cached,) = (tmp_path / "eurosat/split_fewshot").iterdir()
    cached.write_text(damage(cached.read_text()))
    assert load(tmp_path) == first
    assert f"Not used: {cached}" in caplog.text
    caplog.clear()
    assert load(tmp_path) == first
    assert caplog.text == ""


def test_draw_without_seed_is_not_cached(tmp_path):
    folder = trees.build(tmp_path, "EuroSAT")
    load(tmp_path, seed=-1)
    assert not (folder / "split_fewshot").exists()


@pytest.mark.parametrize("split", [True, False])
def test_nothing_is_written_if_not_allowed_or_not_possible(tmp_path, split, caplog, monkeypatch):
    folder = trees.build(tmp_path, "EuroSAT", split=split)
    before = sorted(folder.rglob("*"))
    first = load(tmp_path, write=False)
    assert sorted(folder.rglob("*")) == before

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fewshot, "write_new", refuse)  # a chmod would not stop root
    assert load(tmp_path) == first
    out = caplog.text
    assert "was not written: Permission denied" in out
    assert ("another seed will train and test on another split" in out) is not split


CONCURRENT = """
import sys
from pathlib import Path
from qprompt.data import fewshot
from qprompt.data.coop_pickle import read_records
from qprompt.data.items import split_hash
from qprompt.data.layouts import LAYOUTS

root, seed = Path(sys.argv[1]), int(sys.argv[2])
sys.stdin.readline()  # all start at once
print(split_hash(fewshot.load(LAYOUTS["EuroSAT"].source(root), 16, seed)))
"""


@pytest.mark.parametrize("seeds", [(1, 1, 1, 1), (1, 2, 3, 4)])
def test_four_runs_that_start_together_share_split_and_draw(tmp_path, seeds):
    folder = trees.build(tmp_path, "EuroSAT", split=False)
    command = [sys.executable, "-c", CONCURRENT, str(tmp_path)]
    runs = [
        subprocess.Popen([*command, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for seed in seeds
    ]
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    hashes = [run.communicate()[0].splitlines()[-1] for run in runs]
    assert all(run.returncode == 0 for run in runs)
    full = read_split(folder / "split_zhou_EuroSAT.json")
    key = split_hash(full)[:12]
    assert {f"shot_16-seed_{seed}-{key}.json" for seed in seeds} <= {
        file.name for file in (folder / "split_fewshot").iterdir()
    }
    assert not list(folder.rglob("*.tmp"))
    assert hashes == [split_hash(load(tmp_path, shots=16, seed=seed)) for seed in seeds]
    assert len(set(hashes)) == len(set(seeds))


# ---- upstream's pickles


def dassl_datum():
    """The class that upstream pickles, with the name of its module."""

    class Datum:
        def __init__(self, impath, label, classname):
            self._impath, self._label, self._domain, self._classname = impath, label, 0, classname

    Datum.__module__, Datum.__qualname__ = "dassl.data.datasets.base_dataset", "Datum"
    return Datum


@pytest.fixture
def pickle_draw(tmp_path, monkeypatch):
    """Write shot_4-seed_1.pkl like upstream, with paths of another place; return the draw and the file."""
    module = types.ModuleType("dassl.data.datasets.base_dataset")
    module.Datum = dassl_datum()

    def write(change=lambda data: data, prefix="/old/place/eurosat/2750/"):
        folder = trees.build(tmp_path, "EuroSAT")
        full = read_split(folder / "split_zhou_EuroSAT.json")
        rng = random.Random(77)  # another draw than ours
        draw = {part: draw_shots(getattr(full, part), 4, rng) for part in ("train", "val")}
        data = {k: [module.Datum(prefix + i.path, i.label, i.classname) for i in v] for k, v in draw.items()}
        file = folder / "split_fewshot/shot_4-seed_1.pkl"
        file.parent.mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "dassl.data.datasets.base_dataset", module)
            file.write_bytes(pickle.dumps(change(data), pickle.HIGHEST_PROTOCOL))
        return draw, file

    write.Datum = module.Datum
    return write


def test_pickled_draw_of_coop_is_used_wherever_it_was_made(tmp_path, pickle_draw, caplog):
    draw, file = pickle_draw()
    split = load(tmp_path)
    assert {"train": split.train, "val": split.val} == draw
    assert f"Using the few-shot draw in {file}" in caplog.text
    draw, _ = pickle_draw(prefix="C:\\data\\eurosat\\2750\\")
    assert load(tmp_path).train == draw["train"]


def rename_first(data):
    data["train"][0]._classname = "Rivers"
    return data


def relabel_first(data):
    data["train"][0]._label = 3
    return data


def lose_file(data):
    data["val"][0]._impath += "x"
    return data


def repeat_first(data):
    data["train"][1] = data["train"][0]
    return data


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rename_first, "does not match the data on disk"),
        (relabel_first, "does not match the data on disk"),
        (lose_file, "is not in the split"),
        (repeat_first, "occurs twice"),
        (lambda data: {**data, "train": data["train"][1:]}, "expected 4"),
        (lambda data: {"train": data["train"]}, "no 'val' list"),
        (lambda data: {**data, "train": "all"}, "holds a str"),
        (lambda data: {**data, "val": [1, 2]}, "an entry is not an image"),
        (lambda data: [data], "holds a list"),
    ],
)
def test_pickled_draw_that_does_not_match_is_ignored(tmp_path, pickle_draw, caplog, change, reason):
    draw, file = pickle_draw(change)
    split = load(tmp_path)
    out = caplog.text
    assert f"Not used: {file}" in out and reason in out
    assert split.train == draw_shots(
        read_split(tmp_path / "eurosat/split_zhou_EuroSAT.json").train, 4, random.Random(1)
    )


class Attack:
    """Unpickling it with `pickle` creates a folder."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("how", ["exec", "mkdir", "system"])
def test_malicious_pickle_is_refused_and_not_executed(tmp_path, caplog, how, protocol):
    target = tmp_path / "attacked"
    attack = {
        "exec": Attack(exec, f"import os; os.mkdir({str(target)!r})"),
        "mkdir": Attack(os.mkdir, str(target)),
        "system": Attack(os.system, f"mkdir {target}"),
    }[how]
    folder = trees.build(tmp_path, "EuroSAT")
    file = folder / "split_fewshot/shot_4-seed_1.pkl"
    file.parent.mkdir()
    file.write_bytes(pickle.dumps({"train": [attack]}, protocol))
    load(tmp_path)
    assert f"Not used: {file} is refused: it refers to" in caplog.text
    assert not target.exists()
    pickle.loads(file.read_bytes())
    assert target.exists()  # so it is a real attack


def test_pickle_cannot_exhaust_memory(tmp_path):
    file = tmp_path / "shot.pkl"
    file.write_bytes(b"\x80\x04Nr\xff\xff\xff\xff.")  # memo entry 4,294,967,295
    with pytest.raises(UserError, match="it holds a NoneType"):
        read_records(file)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_without_a_crash(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("pickle") / "shot.pkl"
    file.write_bytes(b"\x80\x04" + data)
    with pytest.raises(UserError, match="is refused"):
        read_records(file)


def test_imagenet_uses_the_order_of_coops_listing_only_if_it_matches(tmp_path, monkeypatch, caplog):
    folder = trees.build(tmp_path, "ImageNet")
    plain = load(tmp_path, "ImageNet", shots=-1)
    module = types.ModuleType("dassl.data.datasets.base_dataset")
    module.Datum = dassl_datum()
    monkeypatch.setitem(sys.modules, "dassl.data.datasets.base_dataset", module)

    def listing(items):
        return [module.Datum(f"/elsewhere/imagenet/images/{i.path}", i.label, i.classname) for i in items]

    data = {"train": listing(plain.train)[::-1], "test": listing(plain.test)}
    (folder / "preprocessed.pkl").write_bytes(pickle.dumps(data, pickle.HIGHEST_PROTOCOL))
    assert load(tmp_path, "ImageNet", shots=-1).train == plain.train[::-1]
    data["test"] = []  # written by a run on a val folder without class folders
    (folder / "preprocessed.pkl").write_bytes(pickle.dumps(data, pickle.HIGHEST_PROTOCOL))
    assert load(tmp_path, "ImageNet", shots=-1) == plain
    assert "lists 0 test images, the folder holds 35" in caplog.text


# ---- missing files are reported at once


def test_missing_images_are_counted(tmp_path):
    folder = trees.build(tmp_path, "EuroSAT")
    paths = sorted((folder / "2750/River").iterdir())
    for path in paths[:3]:
        path.unlink()
    with pytest.raises(UserError, match=r"3 of \d+ images do not exist, the first is .*River"):
        load(tmp_path, shots=-1)


@pytest.mark.parametrize("name", list(trees.DATASETS))
def test_missing_folder_is_named(tmp_path, name):
    with pytest.raises(UserError, match=f"{name} needs a folder '{trees.DATASETS[name][0]}' in the data root"):
        load(tmp_path, name)
    (tmp_path / trees.DATASETS[name][0]).mkdir()
    with pytest.raises(UserError):
        load(tmp_path, name)


@pytest.mark.parametrize(
    "data",
    ["", "[]", "{}", '{"train": [1], "val": [], "test": []}', '{"train": [["../x", 0, "x"]], "val": [], "test": []}'],
)
def test_broken_split_file_is_named(tmp_path, data):
    folder = trees.build(tmp_path, "EuroSAT")
    (folder / "split_zhou_EuroSAT.json").write_text(data)
    with pytest.raises(UserError, match="split_zhou_EuroSAT.json"):
        load(tmp_path)


def test_imagenet_val_without_class_folders_is_named(tmp_path):
    folder = trees.build(tmp_path, "ImageNet") / "images/val"
    for file in sorted(folder.rglob("*.JPEG")):
        file.rename(folder / file.name)
    for empty in folder.iterdir():
        if empty.is_dir():
            empty.rmdir()
    with pytest.raises(UserError, match="holds images instead of one folder per class.*qprompt prepare-data ImageNet"):
        load(tmp_path, "ImageNet")
