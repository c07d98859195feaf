"""Custom data: class folders, lists and class names; every mistake raises an error that explains it."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qprompt.data import fewshot
from qprompt.data.class_names import read_renames
from qprompt.data.image_folder import image_folder, read_image_folder, split_by_name
from qprompt.data.item_list import item_list, read_item_list
from qprompt.data.items import Item
from qprompt.errors import UserError


def folder(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def classes(*names, count=10, below=""):
    return [f"{below}{name}/{k}.jpg" for name in names for k in range(count)]


# ---- class folders


def test_class_folders_have_the_same_split_for_every_seed(tmp_path, caplog):
    folder(tmp_path, *classes("cat", "dog", "bird"), "cat/notes.txt", ".hidden/x.jpg")
    split = read_image_folder(tmp_path)
    assert [len(part) for part in split] == [15, 6, 9]
    assert {(i.label, i.classname) for i in split.train} == {(0, "bird"), (1, "cat"), (2, "dog")}
    assert len({i.path for part in split for i in part}) == 30
    assert "50% train, 20% val, 30% test" in caplog.text
    drawn = [fewshot.load(image_folder(tmp_path), 2, seed) for seed in (1, 2)]
    assert drawn[0].test == drawn[1].test and drawn[0].train != drawn[1].train
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "bird", "cat", "dog"]  # nothing is written


def test_train_val_test_folders(tmp_path, caplog):
    folder(
        tmp_path,
        *classes("cat", "dog", below="Train/"),
        *classes("dog", below="valid/"),
        *classes("cat", below="test/"),
    )
    split = read_image_folder(tmp_path)
    assert split.train[0] == Item("Train/cat/0.jpg", 0, "cat")
    assert {i.label for i in split.val} == {1} and {i.label for i in split.test} == {0}
    assert caplog.text == ""


def test_val_is_used_for_testing_without_test_images(tmp_path, caplog):
    folder(tmp_path, *classes("cat", "dog", below="train/"), *classes("cat", "dog", below="val/"))
    split = read_image_folder(tmp_path)
    assert split.val == split.test and len(split.test) == 20
    assert "validation images are used for testing" in caplog.text


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ([], "0 class folders, expected at least 2"),
        (["a.jpg", "b.jpg"], "0 class folders and 2 images without one, expected at least 2"),
        (classes("cat"), "1 class folders"),
        (classes("cat", "dog", below="data/"), r"one level too high"),
        ([*classes("cat", "dog"), "empty/readme.txt"], "empty holds no images"),
        (
            [*classes("cat", "dog", below="train/"), *classes("cow", below="test/")],
            "'cow' has no folder of training images",
        ),
        ([*classes("cat", "dog"), "loose.png"], "images next to folders"),
        ([*classes("cat"), "dog/only.jpg"], "'dog' has one image"),
    ],
)
def test_invalid_folders_are_explained(tmp_path, paths, reason):
    folder(tmp_path, *paths)
    with pytest.raises(UserError, match=reason):
        read_image_folder(tmp_path)


@settings(deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=5))
def test_split_by_name_gives_each_class_training_and_test_images(sizes):
    items = [Item(f"{label}/{k}.jpg", label, str(label)) for label, size in enumerate(sizes) for k in range(size)]
    split = split_by_name(items)
    assert sorted(i for part in split for i in part) == sorted(items)
    for label, size in enumerate(sizes):
        counts = [Counter(i.label for i in part)[label] for part in split]
        assert counts[0] and counts[2] and counts[2] == max(1, round(size * 0.3))


# ---- lists


def write_list(tmp_path, rows, kind="csv"):
    file = tmp_path / f"list.{kind}"
    if kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        file.write_text(
            "\n".join(mark.join(str(v) for v in row) for row in [rows[0].keys(), *(r.values() for r in rows)])
        )
    elif kind == "json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("\n".join(map(json.dumps, rows)))
    return file


ROWS = [
    {"path": f"{name}_{part}.jpg", "classname": name, "split": part}
    for name in ("tabby cat", "dog")
    for part in ("train", "val", "test")
]


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl"])
def test_list_formats(tmp_path, kind):
    folder(tmp_path, *(row["path"] for row in ROWS))
    split = fewshot.load(item_list(write_list(tmp_path, ROWS, kind), tmp_path), 1, 1)
    assert [len(part) for part in split] == [2, 2, 2]
    assert sorted(split.train) == [Item("dog_train.jpg", 0, "dog"), Item("tabby cat_train.jpg", 1, "tabby cat")]


def test_split_zhou_file_as_list(tmp_path):
    file = tmp_path / "list.json"
    file.write_text(json.dumps({part: [[f"{part}.jpg", 0, "cat"]] for part in ("train", "val", "test")}))
    assert read_item_list(file, tmp_path).test == [Item("test.jpg", 0, "cat")]


def test_semicolons_absolute_paths_and_other_column_names(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text(f"Filename;Label;Set\n{tmp_path}/a.jpg;cat;training\n./b.jpg;dog;train\nc\\d.jpg;dog;Validation\n")
    split = read_item_list(file, tmp_path)
    assert [i.path for i in split.train] == ["a.jpg", "b.jpg"]
    assert [i.path for i in split.test] == ["c/d.jpg"]


def numbered(*labels, **more):
    return [{"path": f"{k}.jpg", "label": label, **more} for k, label in enumerate(labels)]


def test_labels_may_start_at_0_or_1(tmp_path, caplog):
    names = ["x", "y", "z"]
    from_0 = [{**row, "class": names[row["label"]]} for row in numbered(0, 1, 2, 0, 1, 2)]
    from_1 = [{**row, "label": row["label"] + 1} for row in from_0]
    a = read_item_list(write_list(tmp_path, from_0), tmp_path)
    assert "labels start at 1" not in caplog.text
    assert read_item_list(write_list(tmp_path, from_1), tmp_path) == a
    assert "labels start at 1; they are used as 0 to 2" in caplog.text


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (numbered(0, 0, 2, 2), "labels go up to 2, but no row has label 1"),
        (numbered(5, 6), "smallest label is 5"),
        (numbered(-1, 0), "smallest label is -1"),
        ([{"path": "a.jpg"}], "expected path,classname,split"),
        ([{"class": "cat"}], "expected path,classname,split"),
        ([{"path": "a.jpg", "class": ""}], "row 1 has no class"),
        ([{"path": "a.jpg", "class": "x", "split": "train"}] * 2, "a.jpg is listed twice in train"),
        (
            [{"path": "a.jpg", "class": "x", "split": "train"}, {"path": "./a.jpg", "class": "x", "split": "test"}],
            "a.jpg is listed in train and in test",
        ),
        ([{"path": "../a.jpg", "class": "x"}], "leaves the image folder"),
        ([{"path": "/etc/a.jpg", "class": "x"}], "not below the image folder"),
        ([{"path": "", "class": "x"}], "empty or leaves"),
        ([{"path": "a.jpg", "class": "x", "split": "query"}], "row 1: split is 'query'"),
        ([{"path": "a.jpg", "class": "x", "split": "test"}], "no training images"),
        ([*ROWS, {"path": "new.jpg", "classname": "cow", "split": "test"}], "class 'cow', which has no training image"),
    ],
)
def test_invalid_list_is_explained(tmp_path, rows, reason):
    with pytest.raises(UserError, match=reason):
        read_item_list(write_list(tmp_path, rows), tmp_path)


@pytest.mark.parametrize(
    ("name", "text"), [("a.csv", ""), ("a.json", "{"), ("a.json", "[]"), ("a.jsonl", "1"), ("a.xlsx", "")]
)
def test_file_that_is_not_a_list_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        read_item_list(tmp_path / name, tmp_path)
    with pytest.raises(UserError, match="no.csv"):
        read_item_list(tmp_path / "no.csv", tmp_path)


# ---- class names


def test_class_names_from_text_list_and_object(tmp_path, caplog):
    folder(tmp_path / "data", *classes("0", "1", "2"))
    source = image_folder(tmp_path / "data")
    fewshot.load(source, 1, 1)
    assert "Class names are numbers (0, ...)" in caplog.text
    (tmp_path / "names.txt").write_text("cat\ndog\n\nowl\n")
    (tmp_path / "names.json").write_text('["cat", "dog", "owl"]')
    for file in ("names.txt", "names.json"):
        split = fewshot.load(source, 1, 1, "new", rename=read_renames(str(tmp_path / file)))
        assert {i.classname for i in split.test} == {"owl"}
    (tmp_path / "some.json").write_text('{"1": "hound"}')
    split = fewshot.load(source, 1, 1, rename=read_renames(str(tmp_path / "some.json")))
    assert [i.classname for i in split.train] == ["0", "hound", "2"]


def test_invalid_class_names_are_explained(tmp_path):
    folder(tmp_path / "data", *classes("cat", "dog"))
    for text, reason in (
        ('{"cats": "x"}', "no class 'cats'. Did you mean 'cat'"),
        ('["a"]', "holds 1 names, the data has 2 classes"),
        ("[1, 2]", "expected a list or an object of names"),
        ("{", "cannot be read"),
    ):
        (tmp_path / "names.json").write_text(text)
        with pytest.raises(UserError, match=reason):
            fewshot.load(image_folder(tmp_path / "data"), 1, 1, rename=read_renames(str(tmp_path / "names.json")))
