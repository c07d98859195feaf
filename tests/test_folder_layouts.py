"""What a folder means is decided by all of its contents, and nothing in it is left out in silence."""

import errno
import os
import subprocess

import pytest
import trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qprompt.__main__ import main
from qprompt.data import tree
from qprompt.data.folder_layout import LAYOUTS, Ambiguous, part_of
from qprompt.data.image_folder import read_image_folder, survey
from qprompt.data.images import ImageError, read_image
from qprompt.data.item_list import read_item_list
from qprompt.data.picture_paths import picture_paths
from qprompt.data.whence import Whence
from qprompt.errors import UserError


def make(root, *entries, count=4):
    """Write empty files: "cat/" is a folder with `count` images, "cat/a.txt" a file."""
    for entry in entries:
        for name in [f"{k}.jpg" for k in range(count)] if entry.endswith("/") else [""]:
            path = root / (entry + name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def classes(split):
    return sorted({item.classname for item in split.train})


CAT_DOG = {part: (f"{part}/cat/", f"{part}/dog/") for part in ("train", "test", "val")}

# Trees with one reading: entries, the classes, and the numbers of training, validation and test images
# (None: drawn from the training images), and what is left out.
CLEAR = {
    "classes": (("cat/", "dog/"), ["cat", "dog"], None, []),
    "train and test": ((*CAT_DOG["train"], *CAT_DOG["test"]), ["cat", "dog"], (8, 0, 8), []),
    "usual names": (("training_set/cat/", "training_set/dog/", "Test Set/cat/"), ["cat", "dog"], (8, 0, 4), []),
    "capitals": (("Train/cat/", "Train/dog/", "VALID/cat/", "Eval/dog/"), ["cat", "dog"], (8, 4, 4), []),
    "years": (("train2017/cat/", "train2017/dog/", "val2017/cat/"), ["cat", "dog"], (8, 4, 4), []),
    "dev": (("training/cat/", "training/dog/", "dev/cat/", "testing/dog/"), ["cat", "dog"], (8, 4, 4), []),
    "images_train": (("images_train/cat/", "images_train/dog/", "images-test/cat/"), ["cat", "dog"], (8, 0, 4), []),
    "class called test": (("test/", "exam/", "quiz/"), ["exam", "quiz", "test"], None, []),
    "class called train": (("train/", "car/", "bus/"), ["bus", "car", "train"], None, []),
    "class called train, with a subfolder": (
        ("train/", "train/old/", "car/", "bus/"),
        ["bus", "car", "train"],
        None,
        [],
    ),
    "class called dev among 20": (("dev/", *(f"c{k:02d}/" for k in range(20))), None, None, []),
    "class called train in a split": (
        ("train/train/", "train/car/", "test/train/", "test/car/"),
        ["car", "train"],
        (8, 0, 8),
        [],
    ),
    "unlabelled test images": ((*CAT_DOG["train"], "test/"), ["cat", "dog"], None, [tree.NO_CLASS]),
    "unlabelled images beside a split": (
        (*CAT_DOG["train"], *CAT_DOG["test"], "unlabeled/"),
        ["cat", "dog"],
        (8, 0, 8),
        [tree.NO_SPLIT],
    ),
    "annotations": ((*CAT_DOG["train"], *CAT_DOG["val"], "annotations/a.xml"), ["cat", "dog"], (8, 8, 8), [tree.OTHER]),
    "same folder in each class": (("cat/images/", "dog/images/"), ["cat", "dog"], None, []),
    "images in subfolders": (("cat/", "cat/2019/", "dog/", "dog/a/b/"), ["cat", "dog"], None, []),
    "system folders": (
        ("cat/", "dog/", "__MACOSX/cat/", "@eaDir/", "lost+found/", ".ipynb_checkpoints/", "$RECYCLE.BIN/x.jpg"),
        ["cat", "dog"],
        None,
        [tree.SYSTEM, tree.HIDDEN],
    ),
    "system files": (
        ("cat/", "dog/", "cat/Thumbs.db", ".DS_Store", "dog/._1.jpg", "cat/@eaDir/1.jpg", "desktop.ini"),
        ["cat", "dog"],
        None,
        [tree.SYSTEM, tree.HIDDEN],
    ),
    "other files": (("cat/", "dog/", "cat/a.txt", "README.md"), ["cat", "dog"], None, [tree.OTHER]),
    "other pictures": (("cat/", "dog/", "cat/a.jxl", "dog/b.svg", "cat/c.mp4"), ["cat", "dog"], None, [tree.NOT_READ]),
    "our features": (("cat/", "dog/", ".features/x.features"), ["cat", "dog"], None, []),
}


@pytest.mark.parametrize("name", CLEAR)
def test_tree_with_one_reading(tmp_path, name):
    entries, expected, sizes, reasons = CLEAR[name]
    split, left_out, _ = survey(make(tmp_path, *entries))
    if expected:
        assert classes(split) == expected
    else:
        assert len(classes(split)) == 21
    if sizes:
        assert tuple(map(len, split)) == sizes
    assert sorted(left_out.paths) == sorted(reasons)


# Trees with several: entries, and the classes for each value of DATASET.LAYOUT that the message says to type.
UNCLEAR = {
    "images in train and test": (("train/", "test/"), {"class": ["test", "train"]}),
    "images in val and test": (("val/", "test/"), {"class": ["test", "val"]}),
    "val and test with classes": ((*CAT_DOG["val"], *CAT_DOG["test"]), {"class": ["test", "val"]}),
    "test images of the classes beside them": (("cat/", "dog/", *CAT_DOG["test"]), {"class": ["cat", "dog", "test"]}),
    "groups": (
        ("animals/cat/", "animals/dog/", "plants/rose/"),
        {"class": ["animals", "plants"], "group/class": ["cat", "dog", "rose"]},
    ),
    "groups in a split": (
        ("train/animals/cat/", "train/animals/dog/", "train/plants/rose/", "test/animals/cat/"),
        {"split/class": ["animals", "plants"], "split/group/class": ["cat", "dog", "rose"]},
    ),
    "split in each class": (
        ("cat/train/", "cat/test/", "dog/train/", "dog/test/"),
        {"class": ["cat", "dog"], "class/split": ["cat", "dog"]},
    ),
    "split in some classes": (
        ("cat/train/", "cat/test/", "dog/", "owl/train/", "owl/test/"),
        {"class": ["cat", "dog", "owl"], "class/split": ["cat", "owl"]},
    ),
    "groups with a folder between": (
        ("amazon/images/bike/", "amazon/images/mug/", "dslr/images/bike/", "dslr/images/mug/"),
        {"class": ["amazon", "dslr"]},
    ),
    "folder beside a split": (
        (*CAT_DOG["train"], *CAT_DOG["test"], "extra/"),
        {"split/class": ["cat", "dog"], "class": ["extra", "test", "train"]},
    ),
    "unlabelled images beside classes": (("cat/", "dog/", "unlabelled/"), {"class": ["cat", "dog", "unlabelled"]}),
    "not sorted images in train": (
        (*CAT_DOG["train"], "train/unsorted/", *CAT_DOG["test"]),
        {"split/class": ["cat", "dog", "unsorted"]},
    ),
    "train twice": ((*CAT_DOG["train"], "training/cat/", "training/dog/"), {"class": ["train", "training"]}),
    "validation twice": ((*CAT_DOG["train"], *CAT_DOG["val"], "dev/cat/"), {"class": ["dev", "train", "val"]}),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_tree_with_several_readings_is_refused_with_what_to_type(tmp_path, name, capsys):
    entries, readings = UNCLEAR[name]
    make(tmp_path, *entries)
    with pytest.raises(Ambiguous, match="can be read in 2 ways") as refused:
        read_image_folder(tmp_path)
    assert set(refused.value.layouts) == set(readings) and "\n" not in str(refused.value)
    for layout, expected in readings.items():
        assert f"type DATASET.LAYOUT {layout}" in str(refused.value)
        assert classes(read_image_folder(tmp_path, layout)) == expected
    assert main(["check-data", str(tmp_path), "ImageFolder", "--structure-only"]) == 1
    out = capsys.readouterr().out
    assert "[ambiguous-tree]" in out
    for command in out.strip().rpartition("here: ")[2].split(" or "):
        assert main([*command.split()[1:], "--structure-only"]) == 0


@pytest.mark.parametrize(
    "name", ["test images of the classes beside them", "unlabelled images beside classes", "train twice"]
)
def test_command_for_the_other_reading_works(tmp_path, name):
    root = make(tmp_path / "my data", *UNCLEAR[name][0])
    with pytest.raises(Ambiguous) as refused:
        read_image_folder(root)
    command = str(refused.value).rstrip(".")
    command = command[command.rindex("mkdir " if "mkdir " in command else "mv ") :]
    subprocess.run(command, shell=True, check=True)
    assert classes(read_image_folder(root)) == ["cat", "dog"]


EACH = (tree.NO_CLASS, tree.EMPTY, tree.OTHER)


@pytest.mark.parametrize(
    ("entries", "layout", "expected", "left_out"),
    [
        (("cat/", "dog/", "a.jpg", "empty/x.txt"), "class", ["cat", "dog"], dict.fromkeys(EACH, 1)),
        ((*CAT_DOG["train"], "train/a.jpg", "b.jpg"), "split/class", ["cat", "dog"], {tree.NO_CLASS: 2}),
    ],
)
def test_named_layout_leaves_out_what_does_not_fit_and_says_so(tmp_path, caplog, entries, layout, expected, left_out):
    make(tmp_path, *entries)
    with pytest.raises(UserError, match=f"type DATASET.LAYOUT {layout}"):
        read_image_folder(tmp_path)
    split, found, _ = survey(tmp_path, layout)
    assert classes(split) == expected and {reason: len(paths) for reason, paths in found.paths.items()} == left_out
    read_image_folder(tmp_path, layout)
    assert "images without a class folder" in caplog.text


def test_unknown_layout_is_named(tmp_path):
    with pytest.raises(UserError, match=r"DATASET.LAYOUT is 'clas'.*Did you mean 'class'"):
        read_image_folder(tmp_path, "clas")


@pytest.mark.parametrize("name", ["train station", "test tube", "bullet train", "detest", "evaluate", "trains", "cat"])
def test_other_names_are_no_parts_of_a_split(name):
    assert part_of(name) == ""


# ---- files


def test_every_format_below_a_class_is_read_or_named(tmp_path, caplog):
    names = ["a.JPG", "b.jpeg", "c.png", "d.heic", "e.avif", "f.jfif", "g.JP2", "h.tif", "i.webp", "j.HEIF"]
    make(tmp_path, "dog/", *(f"cat/{name}" for name in names), "cat/k.jxl", "cat/l.dng", "cat/m")
    (tmp_path / "cat/n").write_bytes(trees.jpeg())
    (tmp_path / "cat/o.jpg_large").write_bytes(trees.jpeg())
    split = read_image_folder(tmp_path)
    read = {item.path.rpartition("/")[2] for part in split for item in part if item.classname == "cat"}
    assert read == {*names, "n", "o.jpg_large"}
    assert "pictures in a format that is not read: 2 (cat/k.jxl, cat/l.dng)" in caplog.text


def test_images_that_need_a_decoder_are_counted_before_training(tmp_path, monkeypatch):
    make(tmp_path, "dog/", "cat/a.heic", "cat/b.HEIC", "cat/c.jpg")
    monkeypatch.setattr(tree, "missing_decoder", lambda suffix: "pip install x" if suffix == "heic" else "")
    with pytest.raises(UserError, match=r"2 .heic images \(cat/a.heic\) cannot be read yet. Type: pip install x"):
        read_image_folder(tmp_path)


def test_links_are_followed_and_broken_ones_and_circles_are_named(tmp_path, caplog):
    make(tmp_path / "elsewhere", "photos/")
    root = make(tmp_path / "root", "dog/", "cat/")
    (root / "owl").symlink_to(tmp_path / "elsewhere/photos")
    (root / "cat/link.jpg").symlink_to(root / "dog/0.jpg")
    (root / "cat/gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "dog/around").symlink_to(root)
    (root / "itself").symlink_to("itself")
    split, left_out, _ = survey(root)
    assert classes(split) == ["cat", "dog", "owl"]
    assert "cat/link.jpg" in {item.path for part in split for item in part}
    assert left_out.paths == {tree.BROKEN: ["cat/gone.jpg", "itself"], tree.LOOP: ["dog/around"]}


@pytest.mark.parametrize("run", ["output/pets/QCoOp", "run", "cat/run"])
def test_output_folders_among_the_images_are_left_out_and_named(run, tmp_path):
    root = make(tmp_path, "cat/", "dog/", f"{run}/config.json", f"{run}/log.txt", f"{run}/figures/a.jpg")
    split, left_out, _ = survey(root)
    assert classes(split) == ["cat", "dog"] and sum(map(len, split)) == 8
    assert left_out.paths == {tree.RUNS: [run]}


def test_a_class_with_files_of_these_names_is_a_class(tmp_path):
    root = make(tmp_path, "cat/", "dog/", "dog/config.json", "dog/log.txt")
    assert classes(survey(root)[0]) == ["cat", "dog"]


def test_check_data_and_training_say_what_is_left_out(tmp_path, capsys):
    root = make(tmp_path, "cat/x.jxl", ".DS_Store", "cat/a.txt", "cat/more/")
    for name in ("cat", "dog"):
        for k in range(20):
            (root / name).mkdir(exist_ok=True)
            (root / name / f"{k}.jpg").write_bytes(trees.jpeg(seed=1000 * ord(name[0]) + k))
    for k in range(4):
        (root / f"cat/more/{k}.jpg").write_bytes(trees.jpeg(seed=10**7 + k))
    assert main(["check-data", str(root), "ImageFolder", "--workers", "1"]) == 0
    out = capsys.readouterr().out
    for line in (
        "warning [left-out] Not read: pictures in a format that is not read: 1 (cat/x.jxl).",
        "not read: hidden files and folders: 1 (.DS_Store)",
        "not read: files that are not pictures: 1 (cat/a.txt)",
        "4 images in folders below class folders belong to these (cat/more/0.jpg, ...)",
    ):
        assert line in out, line
    read_image_folder(root)
    out = capsys.readouterr().out
    assert all(words in out for words in ("cat/x.jxl", ".DS_Store", "cat/a.txt", "cat/more/0.jpg"))


# ---- any tree

NAMES = ["train", "Test", "val", "cat", "dog", "10", "2", "unlabeled", "__MACOSX", ".hidden", "@eaDir", "a"]
FILES = ["1.jpg", "2.PNG", "3.heic", "4.txt", ".5.jpg", "6.jxl", "Thumbs.db", "7"]
files = st.lists(st.sampled_from(FILES), max_size=4, unique=True).map(lambda names: dict.fromkeys(names))


def folders(inside):
    return st.dictionaries(st.sampled_from(NAMES), inside, max_size=4)


shapes = st.recursive(files, lambda inside: st.builds(dict.__or__, files, folders(inside)), max_leaves=12)


def write(root, shape):
    root.mkdir()
    for name, inside in shape.items():
        if inside is None:
            (root / name).touch()
        else:
            write(root / name, inside)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(shapes)
def test_every_file_of_any_tree_is_read_or_named(tmp_path_factory, shape):
    root = tmp_path_factory.mktemp("any") / "root"
    write(root, shape)
    there = {os.path.relpath(os.path.join(at, name), root) for at, _, names in os.walk(root) for name in names}
    for layout in LAYOUTS:
        try:
            split, left_out, _ = survey(root, layout)
        except Ambiguous as refused:
            assert layout == "auto" and all(name in LAYOUTS for name in refused.layouts)
            continue
        except UserError as refused:
            assert str(root) in str(refused) or "has one image" in str(refused)
            continue
        read = {item.path for part in split for item in part}
        named = [path for paths in left_out.paths.values() for path in paths]
        assert all(any(p == name or p.startswith(f"{name}/") for name in named) for p in there - read)
        assert not read & set(named)
        assert len(read) == len({(i.path) for part in split[:2] for i in part} | {i.path for i in split.test})


@pytest.mark.parametrize("value", ["Training", "EVAL", "dev", "validation", "Test"])
def test_list_takes_the_same_names_of_parts(tmp_path, value):
    (tmp_path / "l.csv").write_text(
        f"path,classname,split\na.jpg,x,train\nb.jpg,y,train\nc.jpg,x,{value}\nd.jpg,y,{value}\n"
    )
    split = read_item_list(tmp_path / "l.csv", tmp_path)
    assert [item.path for item in split.test] == ["c.jpg", "d.jpg"] or value == "Training"


def test_prediction_and_training_find_the_same_images(tmp_path, monkeypatch):
    make(
        tmp_path,
        "dog/",
        "cat/a.JPG",
        "cat/b.heic",
        "cat/c.jxl",
        "cat/d.txt",
        "cat/.e.jpg",
        "@eaDir/f.jpg",
        "cat/g/h.png",
    )
    (tmp_path / "cat/no_suffix").write_bytes(trees.jpeg())
    split = read_image_folder(tmp_path)
    trained = sorted(str(tmp_path / item.path) for part in split for item in part)
    assert sorted(picture_paths([tmp_path])) == trained and len(trained) == 8
    monkeypatch.chdir(tmp_path)
    assert picture_paths(["dog/*.jpg"]) == [f"dog/{k}.jpg" for k in range(4)]
    (tmp_path / "[1].jpg").touch()
    assert picture_paths(["[1].jpg"]) == ["[1].jpg"]
    with pytest.raises(UserError, match="https://x.org/a.jpg does not exist. Download images first"):
        picture_paths(["https://x.org/a.jpg"])


def test_what_may_not_be_read_is_made_readable_as_the_message_says(tmp_path, monkeypatch, capsys):
    root = make(tmp_path / "my pets", "cat/", "dog/")
    command = f"Type: chmod -R u+rX '{root}"

    def denied(*_args, **_more):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:  # tests may run as root, who may read everything
        patched.setattr("os.access", lambda *_args: False)
        patched.setattr("pathlib.Path.read_bytes", denied)
        with pytest.raises(ImageError, match="may not be read by you: permission denied"):
            read_image(root / "cat/0.jpg")
        assert Whence("ImageFolder", root).image_again(root / "cat/0.jpg") == f"{command}/cat'"
    monkeypatch.setattr("os.scandir", denied)
    assert main(["check-data", str(root), "ImageFolder"]) == 1
    assert f"-> {command}'" in capsys.readouterr().out
