"""What check-data says to type is typed, and check-data run again is satisfied."""

import json
import re
import shlex
import subprocess
import unicodedata

import pytest
import trees
from test_folder_layouts import make

from qprompt.__main__ import main
from qprompt.data.item_list import read_item_list
from qprompt.errors import UserError

COMMAND = re.compile(r"(?:^|: )((?:mv|mkdir) .+)$")


def findings(capsys, *command):
    code = main([*map(str, command), "--structure-only", "--json", "-"])
    (report,) = json.loads(capsys.readouterr().out)["datasets"]
    return code, report["findings"]


def follow(advice):
    """Run the shell command at the end of an advice; return the arguments of a qprompt command there instead."""
    if command := COMMAND.search(advice):
        subprocess.run(command[1], shell=True, check=True)
        return None
    return shlex.split(advice[advice.index("qprompt ") :])[1:] if "qprompt " in advice else None


def satisfied(capsys, command):
    """Whether check-data has no error after its advice was followed, once for each of at most 5 rounds."""
    for _ in range(5):
        code, found = findings(capsys, *command)
        errors = [finding for finding in found if finding["level"] == "error"]
        if code == 0:
            return True
        for finding in errors:
            command = follow(finding["advice"]) or command
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


@pytest.mark.parametrize("name", MOVES)
def test_advice_on_a_moved_data_set_is_enough(tmp_path, capsys, monkeypatch, name):
    dataset, moves = MOVES[name]
    root = tmp_path / "data root"
    trees.build(root, dataset)
    monkeypatch.setattr("qprompt.data.checks.check_sizes", lambda *args, **more: ())  # the trees are small
    names = ["check-data", root, dataset]
    assert findings(capsys, *names)[0] == 0
    for source, target in moves.items():
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        if not source:
            (root / target).mkdir()
        elif source.endswith("/*"):
            for child in list((root / source[:-2]).iterdir()):
                child.rename(root / target / child.name)
        else:
            (root / source).rename(root / target)
    keep = {"ImageNetA": "imagenet-adversarial", "ImageNetR": "imagenet-rendition"}.get(dataset)
    assert findings(capsys, *names)[0] == 1
    if keep or "in the root" in name:
        # Lists that lay in the folder are still there.
        assert "does not exist" not in findings(capsys, *names)[1][0]["advice"]
    assert satisfied(capsys, names)


# ---- trees of the user

TREES = {
    "loose images": ["cat/", "dog/", "loose.jpg"],
    "images beside classes in a split": ["train/cat/", "train/dog/", "train/loose.jpg", "test/cat/"],
    "empty class": ["cat/", "dog/", "owl/readme.txt"],
    "root too high": ["data/cat/", "data/dog/"],
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
