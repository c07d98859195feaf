"""What check-data says to type is typed, and check-data run again is satisfied."""

import json
import re
import shlex
import subprocess
import unicodedata
import zipfile

import pytest
import trees
from test_folder_layouts import make

from qprompt.__main__ import main
from qprompt.data.item_list import read_item_list
from qprompt.data.other_names import find_other_names
from qprompt.errors import UserError

COMMAND = re.compile(r"(?:^|: )((?:mv|mkdir|rm) .+?)(?: && qprompt (.+))?$")


def findings(capsys, *command):
    code = main([*map(str, command), "--structure-only", "--json", "-"])
    (report,) = json.loads(capsys.readouterr().out)["datasets"]
    return code, report["findings"]


def follow(advice):
    """Run the command at the end of an advice, unless it is check-data; return the arguments of check-data there."""
    typed = advice[advice.index("qprompt ") + 8 :] if "qprompt " in advice else ""
    if command := COMMAND.search(advice):
        subprocess.run(command[1], shell=True, check=True)
        typed = command[2] or ""
    if typed.startswith("prepare-data"):
        main(shlex.split(typed))
        return None
    return shlex.split(typed) or None


def satisfied(capsys, command, rounds=5):
    """Whether check-data has no error after its advice was followed, once for each of a few rounds."""
    for _ in range(rounds):
        code, found = findings(capsys, *command)
        errors = [finding for finding in found if finding["level"] == "error"]
        if code == 0:
            return True
        for finding in errors:
            command = follow(finding["advice"]) or command
        capsys.readouterr()
    return False


# ---- trees of the benchmark: data set, what is moved where in its root

MOVES = {
    "other name": ("EuroSAT", {"eurosat": "EuroSAT"}),
    "archive's name": ("EuroSAT", {"eurosat/2750": "eurosat/EuroSAT_RGB"}),
    "archive's name in the root": ("EuroSAT", {"eurosat": "away", "away/2750": "EuroSAT_RGB"}),
    "image folder in the root": ("EuroSAT", {"eurosat": "away", "away/2750": "2750"}),
    "archive in its own folder": ("EuroSAT", {"eurosat/2750": "x", "x": "eurosat/EuroSAT/2750"}),
    "twice": ("EuroSAT", {"eurosat/2750": "x", "x": "eurosat/2750/2750"}),
    "twice, with an old folder": ("EuroSAT", {"eurosat/2750": "x", "x": "eurosat/2750/2750", "": "eurosat/2750.old"}),
    "classes in the folder": ("DescribableTextures", {"dtd/images": "x", "dtd": "y", "x": "dtd"}),
    "classes in the folder, with the split": ("Food101", {"food-101/images/*": "food-101"}),
    "folder in the folder": ("DescribableTextures", {"dtd/images": "x", "x": "dtd/dtd/images"}),
    "ImageNet-A as unpacked": ("ImageNetA", {"imagenet-adversarial/imagenet-a": "imagenet-a"}),
    "ImageNet-R as unpacked": ("ImageNetR", {"imagenet-rendition/imagenet-r": "imagenet-r"}),
    "ImageNet-R with another name": ("ImageNetR", {"imagenet-rendition/imagenet-r": "ImageNet-Rendition"}),
    "Sketch as unpacked": ("ImageNetSketch", {"imagenet-sketch/images": "x", "x": "imagenet-sketch/sketch"}),
    "Caltech's images in the root": ("Caltech101", {"caltech-101/101_ObjectCategories": "101_ObjectCategories"}),
    "ImageNet without images": (
        "ImageNet",
        {"imagenet/images/train": "imagenet/train", "imagenet/images/val": "imagenet/val", "imagenet/images": "gone"},
    ),
    "cars twice": ("StanfordCars", {"stanford_cars/cars_train": "x", "x": "stanford_cars/cars_train/cars_train"}),
}


def move(root, moves):
    for source, target in moves.items():
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        if not source:
            (root / target).mkdir()
        elif source.endswith("/*"):
            for child in list((root / source[:-2]).iterdir()):
                child.rename(root / target / child.name)
        else:
            (root / source).rename(root / target)


@pytest.mark.parametrize("name", MOVES)
def test_advice_on_a_moved_data_set_is_enough(tmp_path, capsys, monkeypatch, name):
    dataset, moves = MOVES[name]
    root = tmp_path / "data root"
    trees.build(root, dataset)
    monkeypatch.setattr("qprompt.data.checks.check_sizes", lambda *args, **more: ())  # the trees are small
    names = ["check-data", root, dataset]
    assert findings(capsys, *names)[0] == 0
    move(root, moves)
    keep = {"ImageNetA": "imagenet-adversarial", "ImageNetR": "imagenet-rendition"}.get(dataset)
    assert findings(capsys, *names)[0] == 1
    if keep or "in the root" in name:
        # Lists that lay in the folder are still there.
        assert "does not exist" not in findings(capsys, *names)[1][0]["advice"]
    assert satisfied(capsys, names)


def upper_suffixes(path):
    return path.with_suffix(".JPG")


def lower_folder(path):
    return path.parent.parent / path.parent.name.lower() / path.name


def everything(path):
    return lower_folder(upper_suffixes(path))


def decomposed(path):
    return path.with_name(unicodedata.normalize("NFD", path.name))


@pytest.mark.parametrize("change", [upper_suffixes, lower_folder, everything, decomposed], ids=lambda f: f.__name__)
def test_one_command_renames_all_images(tmp_path, capsys, monkeypatch, change):
    folder = trees.build(tmp_path, "EuroSAT")
    monkeypatch.setattr("qprompt.data.checks.check_sizes", lambda *args, **more: ())
    split = json.loads((folder / "split_zhou_EuroSAT.json").read_text())
    for rows in split.values():
        for row in rows:  # the split is composed
            other = row[0].replace("image_", "im\u00e4ge_")
            (folder / "2750" / row[0]).rename(folder / "2750" / other)
            row[0] = other
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
    command = ["check-data", tmp_path, "EuroSAT"]
    assert findings(capsys, *command)[0] == 0
    files = sorted((folder / "2750").rglob("*.jpg"))
    for file in files:
        change(file).parent.mkdir(exist_ok=True)
        file.rename(change(file))
    (finding,) = findings(capsys, *command)[1]
    assert finding["code"] == "missing-images" and f"{len(files)} of {len(files)} images" in finding["message"]
    assert satisfied(capsys, command, rounds=2)
    assert sorted((folder / "2750").rglob("*.jpg")) == files


def test_files_that_two_names_can_mean_are_not_renamed(tmp_path):
    make(tmp_path, "a/x.JPG", "a/x.png", "b/y.JPG", "b/z.jpeg", "b/w.bmp")
    listed = {"a/x.jpeg", "b/y.jpg", "b/y.png", "b/z.jpg", "b/w.jpg", "b/w.bmp"}
    missing = listed - {"b/w.bmp"}
    assert find_other_names(tmp_path, missing, listed) == {"b/z.jpg": "b/z.jpeg"}


def test_lost_images_come_back_from_the_archive(tmp_path, capsys, monkeypatch):
    folder = trees.build(tmp_path, "EuroSAT", content=trees.jpeg())
    monkeypatch.setattr("qprompt.data.checks.check_sizes", lambda *args, **more: ())
    with zipfile.ZipFile(tmp_path / "EuroSAT.zip", "w") as archive:
        for file in (folder / "2750").rglob("*.jpg"):
            archive.write(file, f"2750/{file.relative_to(folder / '2750')}")
    first, second = sorted((folder / "2750").rglob("*.jpg"))[:2]
    first.unlink()
    second.write_bytes(b"<html>")
    main(["check-data", str(tmp_path), "EuroSAT", "--workers", "1", "--json", "-"])
    (report,) = json.loads(capsys.readouterr().out)["datasets"]
    assert [finding["code"] for finding in report["findings"]] == ["missing-images", "unreadable-image"]
    for finding in report["findings"]:
        follow(finding["advice"])
    capsys.readouterr()
    assert main(["check-data", str(tmp_path), "EuroSAT", "--workers", "1"]) == 0


@pytest.mark.parametrize("name", ["other name", "twice", "classes in the folder", "ImageNet-A as unpacked"])
def test_advice_of_prepare_data_on_a_moved_data_set_is_enough(tmp_path, capsys, monkeypatch, name):
    dataset, moves = MOVES[name]
    trees.build(tmp_path, dataset)
    monkeypatch.setattr("qprompt.data.checks.check_sizes", lambda *args, **more: ())
    move(tmp_path, moves)
    assert main(["prepare-data", dataset, str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "Put the files into" not in text  # they are there
    follow(text.partition("-> ")[2].partition("\n")[0])
    assert main(["prepare-data", dataset, str(tmp_path)]) == 0


# ---- trees of the user

TREES = {
    "loose images": ["cat/", "dog/", "loose.jpg"],
    "images beside classes in a split": ["train/cat/", "train/dog/", "train/loose.jpg", "test/cat/"],
    "empty class": ["cat/", "dog/", "owl/readme.txt"],
    "root too high": ["data/cat/", "data/dog/"],
    "root much too high": ["data/data/train/cat/", "data/data/train/dog/"],
    "boxes": ["images/cat/", "images/dog/", "labels/cat/a.txt"],
    "class without training images": ["train/cat/", "train/dog/", "test/cat/", "test/cow/"],
    "class with one image": ["cat/", "dog/", "owl/a.jpg"],
    "two forms": ["cat/", unicodedata.normalize("NFC", "é/a.jpg"), unicodedata.normalize("NFD", "é/b.jpg")],
    "everything": ["train/cat/", "train/dog/", "train/loose.jpg", "train/owl/a.txt", "test/cow/", "val/emu/"],
}


@pytest.mark.parametrize("name", TREES)
def test_advice_on_folders_is_enough(tmp_path, capsys, name):
    root = make(tmp_path / "my data", *TREES[name])
    assert findings(capsys, "check-data", root, "ImageFolder")[0] == 1
    assert satisfied(capsys, ["check-data", root, "ImageFolder"])


def test_images_without_folders_and_a_list_of_their_classes(tmp_path, capsys):
    make(tmp_path, *(f"{k}.jpg" for k in range(8)))
    write(
        tmp_path / "labels.csv",
        "filename,class\n" + "".join(f"{k}.jpg,{'cat' if k % 2 else 'dog'}\n" for k in range(8)),
    )
    (finding,) = findings(capsys, "check-data", tmp_path, "ImageFolder")[1]
    assert "0 class folders and 8 images without one" in finding["message"]
    assert satisfied(capsys, ["check-data", tmp_path, "ImageFolder"], rounds=2)


def test_all_faults_of_a_tree_are_found_at_once(tmp_path, capsys):
    root = make(tmp_path, *TREES["everything"])
    messages = [finding["message"] for finding in findings(capsys, "check-data", root, "ImageFolder")[1]]
    for words in ("images next to folders", "owl holds no images", "class 'cow' has no", "class 'emu' has no"):
        assert any(words in message for message in messages), words
    for name in ("cat", "dog"):
        for k in range(4):
            (root / f"train/{name}/{k}.jpg").write_bytes(trees.jpeg(seed=7))
    main(["check-data", str(root), "ImageFolder", "--workers", "1", "--json", "-"])
    (report,) = json.loads(capsys.readouterr().out)["datasets"]
    codes = [finding["code"] for finding in report["findings"]]
    assert codes.count("unreadable-tree") == 4 and "two-labels" in codes
    assert "dog/0.jpg" in next(f["message"] for f in report["findings"] if f["code"] == "two-labels")


@pytest.mark.parametrize("code", ["two-labels", "same-image"])
def test_identical_images_are_named_until_one_of_each_pair_is_deleted(tmp_path, capsys, code):
    for number, name in enumerate(["cat", "dog"]):
        (tmp_path / name).mkdir()
        for k in range(30):
            seed = {"two-labels": k, "same-image": number}[code] if k < 24 else 100 + 30 * number + k
            (tmp_path / name / f"{k}.jpg").write_bytes(trees.jpeg(seed))

    def found():
        main(["check-data", str(tmp_path), "ImageFolder", "--workers", "1", "--json", "-"])
        (report,) = json.loads(capsys.readouterr().out)["datasets"]
        return [finding["message"] for finding in report["findings"] if finding["code"] == code]

    (message,) = found()
    assert code == "same-image" or (message.startswith("24 images are identical") and "; 4 more" in message)
    for _ in range(4):  # at most 20 pairs are named at once
        for message in found():
            for path in re.findall(r"and (\S+\.jpg)", message):
                (tmp_path / path).unlink()
    assert not found()


# ---- lists


@pytest.mark.parametrize(
    "prefix", ["C:\\Users\\me\\pets\\", "D:/data/pets/", "/home/bob/pets/", "/mnt/d/", "..\\..\\x\\"], ids=repr
)
def test_paths_of_another_machine_are_found_below_the_root(tmp_path, prefix, caplog):
    make(tmp_path, "cat/", "dog/")
    rows = "".join(f'"{prefix}{name}\\{k}.jpg",{name}\n' for name in ("cat", "dog") for k in range(4))
    (tmp_path / "l.csv").write_text(f"path,classname\n{rows}")
    if prefix.startswith(".."):
        with pytest.raises(UserError, match="leaves the image folder"):
            read_item_list(tmp_path / "l.csv", tmp_path)
        return
    with caplog.at_level("INFO"):
        split = read_item_list(tmp_path / "l.csv", tmp_path)
    assert {item.path.split("/")[0] for part in split for item in part} == {"cat", "dog"}
    assert "8 paths of another place" in caplog.text


@pytest.mark.parametrize("path", ["https://x.org/a.jpg", "s3://bucket/a.jpg", "C:\\none.jpg", "/none/a.jpg"])
def test_what_is_not_below_the_root_is_refused_with_what_to_do(tmp_path, path):
    (tmp_path / "l.csv").write_text(f"path,classname\n{path},x\n")
    with pytest.raises(UserError, match=r"is a URL: download the image|Type --root with the folder"):
        read_item_list(tmp_path / "l.csv", tmp_path)


def write(path, text):
    path.write_text(text, encoding="utf-8")


LISTED = [
    f"{name}/{k}.jpg,{name},{part}"
    for name in ("cat", "dog")
    for k, part in enumerate(["train", "train", "val", "test"])
]
# A wrong row -> words of the finding and of its advice, and the row as the advice says.
WRONG_ROWS = {
    "https://x.org/a.jpg,cat,train": ("is a URL: download the image", "downloads the URLs", "cat/new.jpg,cat,train"),
    "/none/a.jpg,cat,train": ("nor is a file with the end of this path", "relative to", "cat/new.jpg,cat,train"),
    "../a.jpg,cat,train": ("leaves the image folder", "List paths relative to", "cat/new.jpg,cat,train"),
    ",cat,train": ("is empty or leaves", "List paths relative to", "cat/new.jpg,cat,train"),
    "cat/new.jpg,,train": ("has no class", "Write it there", "cat/new.jpg,cat,train"),
    "cat/new.jpg,cat,query": ("split is 'query', expected train, val or test", "Write one", "cat/new.jpg,cat,train"),
    "cat/new.jpg,cat,": ("split is '', expected train, val or test", "Write one", "cat/new.jpg,cat,train"),
    "cat/new.jpg,cat, black,train": ("more fields than the first line", "quotes", 'cat/new.jpg,"cat, black",train'),
    "./cat/0.jpg,cat,train": ("cat/0.jpg is listed twice in train.", "Delete row 9 or row 1", None),
    "cat//0.jpg,cat,test": ("listed in train and in test", "Delete row 9 or row 1", None),
    "cat/0.jpg,dog,train": ("twice in train, of class 'cat' and 'dog'", "at most one class is right", None),
    "new/0.jpg,cow,test": ("of class 'cow', which has no training image", "delete its 1 rows", None),
}


@pytest.mark.parametrize("wrong", WRONG_ROWS)
def test_advice_on_a_row_is_enough(tmp_path, capsys, wrong):
    words, advice, right = WRONG_ROWS[wrong]
    make(tmp_path, "cat/", "dog/", "cat/new.jpg")
    command = ["check-data", tmp_path, "ImageList", "--list", tmp_path / "l.csv"]
    write(tmp_path / "l.csv", "\n".join(["path,classname,split", *LISTED, wrong]))
    found = findings(capsys, *command)[1]
    (finding,) = [finding for finding in found if words in finding["message"]]
    assert advice in finding["advice"] and ("row 9" in finding["message"] or "cow" in wrong)
    write(tmp_path / "l.csv", "\n".join(["path,classname,split", *LISTED, *([right] if right else [])]))
    assert findings(capsys, *command)[0] == 0


def test_all_faults_of_a_list_are_found_at_once(tmp_path, capsys):
    make(tmp_path, "cat/", "dog/", "cat/new.JPEG")
    rows = [*LISTED, *WRONG_ROWS, "https://x.org/b.jpg,cat,train", "cat/new.jpg,cat,train", "lost.jpg,cat,train"]
    write(tmp_path / "l.csv", "\n".join(["path,classname,split", *rows]))
    code, found = findings(capsys, "check-data", tmp_path, "ImageList", "--list", tmp_path / "l.csv")
    messages = [finding["message"] for finding in found]
    assert code == 1
    kinds = {words for words, _, _ in WRONG_ROWS.values()} - {"split is '', expected train, val or test"}
    for words in (*kinds, "but there is 'cat/new.JPEG'", "2 of 11 images of the split do not exist"):
        assert sum(words in message for message in messages) == 1, words
    assert any("row 9: https" in m and "wrong in 1 more row (21)" in m for m in messages)
    with pytest.raises(UserError) as error:
        read_item_list(tmp_path / "l.csv", tmp_path)
    more = str(error.value).partition("more faults: ")[2]
    assert findings(capsys, *shlex.split(more)[1:])[1] == found


@pytest.mark.parametrize(
    "labels, words",
    [
        ("0 0 2 2", "no row has label 1"),
        ("5 5 6 6", "smallest label is 5"),
        ("0 0 1 x", ""),
        ("1.0 1.0 2.0 2.0", ""),
        ("\u00b2 \u00b2 0 0", ""),
        ("0 0 1 1", "label 0 is called 'b', but 'a' in row 1"),
    ],
)
def test_numbers_of_classes_are_checked(tmp_path, capsys, labels, words):
    make(tmp_path, "cat/")
    names = "abcd" if "called" in words else "    "
    rows = [f"cat/{k}.jpg,{label},{names[k]}" for k, label in enumerate(labels.split())]
    write(tmp_path / "l.csv", "\n".join(["path,label,classname" if names.strip() else "path,label,note", *rows]))
    found = findings(capsys, "check-data", tmp_path, "ImageList", "--list", tmp_path / "l.csv")[1]
    errors = [finding["message"] for finding in found if finding["level"] == "error"]
    assert (
        any(words in message for message in errors)
        if words
        else not [e for e in errors if "label" in e.partition("l.csv")[2]]
    )


@pytest.mark.parametrize("place", ["inner", "", "above"])
def test_another_data_root_of_a_list_is_found(tmp_path, capsys, place):
    make(tmp_path / "pets/inner", "cat/", "dog/")
    before = {"inner": "", "": "inner/", "above": "pets/inner/"}[place]
    write(tmp_path / "l.csv", "\n".join(["path,classname,split", *(before + row for row in LISTED)]))
    assert satisfied(capsys, ["check-data", tmp_path / "pets", "ImageList", "--list", tmp_path / "l.csv"], rounds=2)
