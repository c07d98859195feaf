"""check-data finds exactly the planted faults; prepare-data makes folders in which check-data finds none."""

import dataclasses
import io
import json
import os
import pickle
import subprocess
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import trees
from scipy.io import savemat

from qprompt.__main__ import main
from qprompt.data import archives, checks, downloads, layouts
from qprompt.data.decode_all import decode_all
from qprompt.errors import UserError

JPEG = trees.jpeg()


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build trees of decodable images and register their sizes as the published ones."""

    def make(*names, split=True, root=tmp_path):
        folders = []
        for name in names:
            folders.append(trees.build(root, name, split, content=JPEG))
            layout = layouts.LAYOUTS[name]
            known = layout.source(root)
            whole = checks.check_layout(layout, root)[1]
            sizes = {part: len(items) for part, items in whole._asdict().items()}
            count = len({item.label for item in whole.train})
            monkeypatch.setitem(layouts.LAYOUTS, name, dataclasses.replace(layout, classes=count, **sizes))
            assert known.image_dir.is_dir()
        return folders[0] if len(folders) == 1 else folders

    return make


def check(capsys, *arguments):
    """Run ``qprompt check-data ... --json -``: exit code, (level, code) of every finding, and the report."""
    code = main(["check-data", *map(str, arguments), "--workers", "1", "--json", "-"])
    report = json.loads(capsys.readouterr().out)
    return code, [(f["level"], f["code"]) for d in report["datasets"] for f in d["findings"]], report


# ---- check-data


@pytest.mark.parametrize("name", list(trees.DATASETS))
def test_valid_data_has_no_findings(build, capsys, tmp_path, name):
    if name == "ImageNetV2":
        pytest.skip("a thousand images")
    build(name)
    code, found, report = check(capsys, tmp_path, name)
    assert (code, found) == (0, [])
    assert report["ok"] and report["datasets"][0]["counts"]["classes"] > 3


def eurosat_split(folder, change):
    file = folder / "split_zhou_EuroSAT.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def first_image(folder):
    return sorted((folder / "2750/Forest").iterdir())[0]


def no_folder(folder):
    (folder.parent / "moved").mkdir()
    folder.rename(folder.parent / "moved/away")


def other_name(folder):
    folder.rename(folder.with_name("EuroSAT"))


def wrong_nesting(folder):
    (folder / "2750").rename(folder / "x")
    (folder / "EuroSAT").mkdir()
    (folder / "x").rename(folder / "EuroSAT/2750")


def nested_twice(folder):
    (folder / "2750").rename(folder / "x")
    (folder / "2750").mkdir()
    (folder / "x").rename(folder / "2750/2750")


def not_unpacked(folder):
    (folder / "2750").rename(folder.parent / "gone")
    (folder / "EuroSAT.zip").touch()


def no_images(folder):
    (folder / "2750").rename(folder.parent / "gone")


def lost_image(folder):
    first_image(folder).unlink()


def other_suffix(folder):
    file = first_image(folder)
    file.rename(file.with_suffix(".JPG"))


def truncated(folder):
    first_image(folder).write_bytes(JPEG[:-30])


def empty(folder):
    first_image(folder).write_bytes(b"")


def web_page(folder):
    first_image(folder).write_text("<html>Too many requests</html>")


def broken_split(folder):
    (folder / "split_zhou_EuroSAT.json").write_text('{"train": [')


def short_split(folder):
    eurosat_split(folder, lambda data: data["train"].pop())


def overlap(folder):
    eurosat_split(folder, lambda data: data["test"].__setitem__(0, data["train"][0]))


def labels_from_1(folder):
    eurosat_split(folder, lambda data: [row.__setitem__(1, row[1] + 1) for part in data.values() for row in part])


def stale_cache(folder):
    (folder / "split_fewshot").mkdir()
    (folder / "split_fewshot/shot_1-seed_1.pkl").write_bytes(pickle.dumps({"train": [], "val": []}))


def malicious_cache(folder):
    (folder / "split_fewshot").mkdir()
    (folder / "split_fewshot/shot_1-seed_1.pkl").write_bytes(pickle.dumps(os.getcwd))


def no_split(folder):
    (folder / "split_zhou_EuroSAT.json").unlink()


FAULTS = {
    no_folder: [("error", "no-folder")],
    other_name: [("error", "folder-name")],
    wrong_nesting: [("error", "wrong-nesting")],
    nested_twice: [("error", "wrong-nesting")],
    not_unpacked: [("error", "not-unpacked")],
    no_images: [("error", "no-images")],
    lost_image: [("error", "missing-images")],
    other_suffix: [("error", "missing-images")],
    truncated: [("error", "unreadable-image")],
    empty: [("error", "unreadable-image")],
    web_page: [("error", "unreadable-image")],
    broken_split: [("error", "unreadable-split")],
    short_split: [("error", "wrong-count")],
    overlap: [("error", "overlap")],
    labels_from_1: [("error", "labels")],
    stale_cache: [("warning", "stale-cache")],
    malicious_cache: [("warning", "stale-cache")],
    no_split: [("warning", "no-split")],
}


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_planted_fault_is_the_only_finding(build, capsys, tmp_path, plant):
    plant(build("EuroSAT"))
    code, found, report = check(capsys, tmp_path, "EuroSAT")
    assert found == FAULTS[plant]
    assert code == (1 if found[0][0] == "error" else 0)
    finding = report["datasets"][0]["findings"][0]
    assert finding["message"] and finding["advice"]


@pytest.mark.parametrize("plant", [other_name, wrong_nesting, nested_twice])
def test_command_in_the_advice_fixes_the_fault(build, capsys, tmp_path, plant):
    root = tmp_path / "data root"  # the space needs quotes
    plant(build("EuroSAT", root=root))
    report = check(capsys, root, "EuroSAT", "--structure-only")[2]
    advice = report["datasets"][0]["findings"][0]["advice"]
    subprocess.run(advice[advice.index("mv ") :], shell=True, check=True)
    assert check(capsys, root, "EuroSAT", "--structure-only")[1] == []


def loose_val(folder):
    val = folder / "images/val"
    for file in sorted(val.rglob("*.JPEG")):
        file.rename(val / file.name)
    for path in list(val.iterdir()):
        if path.is_dir():
            path.rmdir()


def lost_synset(folder):
    (folder / "images/val/n01440764").rename(folder / "gone")


def lost_names(folder):
    (folder / "classnames.txt").unlink()


def tars_in_train(folder):
    (folder / "images/train").rename(folder / "gone")
    (folder / "images/train").mkdir()
    (folder / "images/train/n01440764.tar").touch()


def empty_listing(folder):
    (folder / "preprocessed.pkl").write_bytes(pickle.dumps({"train": [], "test": []}))


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (loose_val, ("error", "val-not-in-class-folders")),
        (lost_synset, ("error", "unreadable-split")),
        (lost_names, ("error", "missing-file")),
        (tars_in_train, ("error", "not-unpacked")),
        (empty_listing, ("warning", "stale-cache")),
    ],
)
def test_planted_fault_of_imagenet_is_the_only_finding(build, capsys, tmp_path, plant, expected):
    plant(build("ImageNet"))
    assert check(capsys, tmp_path, "--structure-only")[1] == [expected]


@pytest.mark.parametrize("name", ["OxfordPets", "StanfordCars", "OxfordFlowers", "SUN397", "UCF101", "FGVCAircraft"])
def test_official_files_are_required_only_without_a_split_file(build, capsys, tmp_path, name):
    folder = build(name)
    for need in layouts.LAYOUTS[name].needs:
        (folder / need).unlink()
    found = check(capsys, tmp_path, "--structure-only")[1]
    if layouts.LAYOUTS[name].split_name:
        assert found == []
        (folder / f"split_zhou_{name}.json").unlink()
        found = check(capsys, tmp_path, "--structure-only")[1]
    assert Counter(found)["error", "missing-file"] == len(layouts.LAYOUTS[name].needs)


def test_all_existing_data_sets_are_checked(build, capsys, tmp_path):
    build("EuroSAT", "DescribableTextures")
    (tmp_path / "Food101").mkdir()
    code, found, report = check(capsys, tmp_path)
    assert [d["name"] for d in report["datasets"]] == ["Food101", "DescribableTextures", "EuroSAT"]
    assert code == 1 and found == [("error", "folder-name")]
    assert main(["check-data", str(tmp_path), "dtd", "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["ok"]
    assert "DescribableTextures: ok" in capsys.readouterr().out


def test_many_bad_images_are_counted(build, capsys, tmp_path):
    for file in (build("EuroSAT") / "2750").rglob("*.jpg"):
        file.write_bytes(b"no")
    found = check(capsys, tmp_path)
    assert len(found[1]) == 21 and "more unreadable images" in found[2]["datasets"][0]["findings"][-1]["message"]


def test_result_does_not_depend_on_the_number_of_processes(tmp_path):
    paths = []
    for k in range(9):
        paths.append(str(tmp_path / f"{k}.jpg"))
        Path(paths[-1]).write_bytes(b"" if k == 5 else JPEG)
    alone = list(decode_all(paths, workers=1, with_digest=True))
    assert list(decode_all(paths, workers=2, with_digest=True, chunk=4)) == alone
    assert [result.path for result in alone if result.fault] == [paths[5]]


def test_custom_data_is_checked(tmp_path, capsys):
    for name in ("cat", "dog"):
        for k in range(40):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{k}.jpg").write_bytes(trees.jpeg(seed=1000 * ord(name[0]) + k))
    assert check(capsys, tmp_path, "ImageFolder")[:2] == (0, [])
    for k in range(40):
        (tmp_path / "cat" / f"{k}.jpg").write_bytes(JPEG)  # the same image in all parts
    assert check(capsys, tmp_path, "imagefolder")[:2] == (0, [("warning", "same-image")])
    (tmp_path / "list.csv").write_text(
        "path,classname\n" + "".join(f"cat/{k}.jpg,1\ndog/{k}.jpg,2\n" for k in range(5))
    )
    found = check(capsys, tmp_path, "ImageList", "--list", tmp_path / "list.csv", "--structure-only")
    assert found[:2] == (0, [("warning", "few-images"), ("warning", "number-names")])
    (tmp_path / "loose.jpg").write_bytes(JPEG)
    assert check(capsys, tmp_path, "ImageFolder")[:2] == (1, [("error", "unreadable-tree")])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["no/where"], "'no/where' is not a folder"),
        (["."], "holds none of imagenet, caltech-101"),
        ([".", "EuroSAD"], "no data set 'EuroSAD'. Did you mean 'EuroSAT'"),
    ],
)
def test_invalid_command_is_explained(tmp_path, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    assert main(["check-data", *arguments]) == 2
    assert reason in capsys.readouterr().err


# ---- prepare-data


def pack(path, files):
    """An archive at `path` of {name in it: file or bytes}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, file in files.items():
                archive.writestr(name, file if isinstance(file, bytes) else file.read_bytes())
        return
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, file in files.items():
            data = file if isinstance(file, bytes) else file.read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def pack_as_distributed(name, folder, place):
    """Make the archives and other files of a data set from its tree."""
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    for archive in sorted(downloads.ARCHIVES[name], key=lambda a: a.to == ""):
        if archive.name in ("EuroSAT_RGB.zip", "caltech-101.zip"):
            continue
        below = [path for path in files if not archive.to or path.startswith(f"{archive.to}/")]
        if archive.name == "Partitions.zip":
            below = [path for path in below if path.endswith(".txt")]
        prefix = f"{archive.inside[0]}/" if archive.inside[0] else ""
        renamed = {prefix + path.removeprefix(f"{archive.to}/"): files.pop(path) for path in below}
        pack(place / archive.name, renamed)
    place.mkdir(exist_ok=True)
    if name == "Caltech101":  # as it is distributed today: an archive within an archive
        inner = place / "101_ObjectCategories.tar.gz"
        pack(place / "caltech-101.zip", {f"caltech-101/{inner.name}": inner, "__MACOSX/x": b"", "caltech-101/.x": b""})
        inner.unlink()
    for path, file in files.items():
        (place / Path(path).name).write_bytes(file.read_bytes())


@pytest.mark.parametrize("name", [name for name in trees.DATASETS if name != "ImageNet"])
def test_archives_are_unpacked_to_the_expected_folders(build, tmp_path, capsys, name):
    folder = build(name, root=tmp_path / "made")
    place, root = tmp_path / "Downloads", tmp_path / "root"
    place.mkdir()
    root.mkdir()
    pack_as_distributed(name, folder, tmp_path / "packed")
    assert main(["prepare-data", name, str(root), "--from", str(place)]) == 1
    text = capsys.readouterr().out
    assert f"Put the files into {place} and run this command again." in text
    for file in (tmp_path / "packed").iterdir():  # what it says to do
        assert file.name in text
        file.rename(place / file.name)
    assert main(["prepare-data", name, str(root), "--from", str(place)]) == 0, capsys.readouterr().out
    whole = [checks.check_layout(layouts.LAYOUTS[name], at) for at in (tmp_path / "made", root)]
    assert whole[0] == whole[1]
    capsys.readouterr()
    assert main(["prepare-data", name, str(root), "--from", str(place)]) == 0  # again: nothing to do
    assert " 0 files written" in capsys.readouterr().out


def devkit(place, ids):
    """Write a devkit archive with the given (id, synset) pairs; image n has the class of line n."""
    rows = np.empty((len(ids), 1), dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    for k, (number, synset) in enumerate(ids):
        rows[k, 0] = (number, synset)
    file = io.BytesIO()
    savemat(file, {"synsets": rows})
    lines = [str(ids[k % len(ids)][0]) for k in range(40)]
    data = {"meta.mat": file.getvalue(), "ILSVRC2012_validation_ground_truth.txt": "\n".join(lines).encode()}
    pack(place / "ILSVRC2012_devkit_t12.tar.gz", {f"ILSVRC2012_devkit_t12/data/{k}": v for k, v in data.items()})


def test_imagenet_from_its_three_archives(build, tmp_path, capsys):
    folder = build("ImageNet", root=tmp_path / "made")
    root = tmp_path / "root"
    synsets = {}
    for synset in sorted(p.name for p in (folder / "images/train").iterdir()):
        pack(tmp_path / "x.tar", {p.name: p for p in (folder / "images/train" / synset).iterdir()})
        synsets[f"{synset}.tar"] = (tmp_path / "x.tar").read_bytes()
    pack(root / "ILSVRC2012_img_train.tar", synsets)
    val = sorted((folder / "images/val").rglob("*.JPEG"), key=lambda p: p.name)
    pack(root / "ILSVRC2012_img_val.tar", {p.name: p for p in val})
    assert main(["prepare-data", "ImageNet", str(root)]) == 2
    assert "there is no list of their labels. Put one of ILSVRC2012_devkit_t12.tar.gz" in capsys.readouterr().err
    # the tree numbers its val images 8 k + position of the class + 1
    ids = [(100 - k, synset) for k, synset in enumerate(trees.SYNSETS)]
    devkit(root, [*ids, (7, "n00000000")])
    assert main(["prepare-data", "ImageNet", str(root)]) == 1
    assert "classnames.txt does not exist" in capsys.readouterr().out
    (root / "classnames.txt").write_bytes((folder / "classnames.txt").read_bytes())
    assert main(["prepare-data", "ImageNet", str(root)]) == 0
    images = {p.relative_to(folder) for p in (folder / "images").rglob("*.JPEG")}
    assert {p.relative_to(root / "imagenet") for p in (root / "imagenet/images").rglob("*.JPEG")} == images


@pytest.mark.parametrize("kind", ["valprep.sh", "LOC_val_solution.csv"])
def test_val_is_sorted_with_other_lists_of_labels(build, tmp_path, kind):
    folder = build("ImageNet")
    expected = {p.relative_to(folder) for p in folder.rglob("*.JPEG")}
    labels = {p.stem: p.parent.name for p in (folder / "images/val").rglob("*.JPEG")}
    loose_val(folder)
    if kind == "valprep.sh":
        lines = ["mkdir -p n01440764", *(f"mv {image}.JPEG {synset}/" for image, synset in labels.items())]
    else:
        lines = ["ImageId,PredictionString", *(f"{image},{synset} 1 2 3 4" for image, synset in labels.items())]
    last = lines.pop()
    (tmp_path / kind).write_text("\n".join(lines))
    assert main(["prepare-data", "ImageNet", str(tmp_path)]) == 2  # one image has no label: none is moved
    assert len(list((folder / "images/val").glob("*.JPEG"))) == len(labels)
    (tmp_path / kind).write_text("\n".join([*lines, last]))
    assert main(["prepare-data", "ImageNet", str(tmp_path)]) == 0
    assert {p.relative_to(folder) for p in folder.rglob("*.JPEG")} == expected


def test_class_names_are_copied_to_variants_of_imagenet(build, tmp_path):
    build("ImageNet", "ImageNetR")
    (tmp_path / "imagenet-rendition/classnames.txt").unlink()
    assert main(["prepare-data", "imagenet_r".replace("_", ""), str(tmp_path)]) == 0


def test_missing_files_are_reported_with_their_page(tmp_path, capsys):
    assert main(["prepare-data", "oxford_pets", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    for text in ("robots.ox.ac.uk/~vgg/data/pets", "images.tar.gz, annotations.tar.gz", "split_zhou_OxfordPets.json"):
        assert text in out
    assert list(tmp_path.iterdir()) == []


def test_split_is_drawn_only_on_request(build, tmp_path, capsys):
    folder = build("EuroSAT", split=False)
    assert main(["prepare-data", "EuroSAT", str(tmp_path)]) == 0  # a warning is not an error
    assert "not the published one" in capsys.readouterr().out
    assert main(["prepare-data", "EuroSAT", str(tmp_path), "--draw-split", "1"]) == 0
    data = json.loads((folder / "split_zhou_EuroSAT.json").read_text())
    images = len(list(folder.rglob("*.jpg")))
    assert sum(map(len, data.values())) == images and len(data["train"]) == pytest.approx(images / 2, abs=5)
    assert main(["prepare-data", "EuroSAT", str(tmp_path), "--draw-split", "2"]) == 2
    assert "exists: move it away to draw another split" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["prepare-data", "FGVCAircraft", str(tmp_path), "--draw-split", "2"]) == 2
    assert "type the command without --draw-split" in capsys.readouterr().err
    assert main(["prepare-data", "FGVCAircraft", str(tmp_path)]) == 1  # nothing is there
    assert "FGVCAircraft" in capsys.readouterr().out


# ---- untrusted archives


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../escape"),
        tarfile.TarInfo("/tmp/escape"),
        tarfile.TarInfo("a/../../escape"),
        tarfile.TarInfo("a\\..\\escape"),
        tarfile.TarInfo("C:/escape"),
        link("a/link", "/etc"),
        link("a/link", "../../outside", tarfile.LNKTYPE),
        link("a/device", "", tarfile.CHRTYPE),
        link("a/pipe", "", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type!r}",
)
def test_archive_that_would_leave_its_folder_is_refused(tmp_path, member):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(member)
    with pytest.raises(UserError, match="refused"):
        archives.unpack(tmp_path / "a.tar", tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("name", ["../escape", "/escape", "x/../../escape"])
def test_zip_that_would_leave_its_folder_is_refused(tmp_path, name):
    pack(tmp_path / "a.zip", {name: b"x"})
    with pytest.raises(UserError, match="refused"):
        archives.unpack(tmp_path / "a.zip", tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc")
    with pytest.raises(UserError, match="holds a link"):
        archives.unpack(tmp_path / "a.zip", tmp_path / "target")


def test_link_in_the_target_is_not_followed(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target/a").symlink_to(tmp_path / "elsewhere/not_yet")
    pack(tmp_path / "a.tar", {"a": b"x"})
    archives.unpack(tmp_path / "a.tar", tmp_path / "target")  # replaces the dangling link and does not write through it
    assert not list((tmp_path / "elsewhere").iterdir())


def test_archive_that_grows_out_of_proportion_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ALLOWANCE", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"\0" * 1_000_000)
    with pytest.raises(UserError, match="more than 20 times its size"):
        archives.unpack(tmp_path / "a.zip", tmp_path / "target")


def test_nothing_is_overwritten_and_no_partial_file_remains(tmp_path):
    pack(tmp_path / "a.tar", {"a.jpg": b"12345", "b.jpg": b"1"})
    (tmp_path / "target").mkdir()
    (tmp_path / "target/a.jpg").write_bytes(b"other")
    assert archives.unpack(tmp_path / "a.tar", tmp_path / "target") == (1, 1)
    assert (tmp_path / "target/a.jpg").read_bytes() == b"other"
    (tmp_path / "target/a.jpg").write_bytes(b"longer than that")
    with pytest.raises(UserError, match="another size"):
        archives.unpack(tmp_path / "a.tar", tmp_path / "target")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:514])
    with pytest.raises(UserError, match="damaged"):
        archives.unpack(tmp_path / "cut.tar", tmp_path / "other")
    assert not [p for p in (tmp_path / "other").rglob("*") if p.is_file()]
    (tmp_path / "no.zip").write_bytes(b"<html>")
    with pytest.raises(UserError, match="damaged"):
        archives.unpack(tmp_path / "no.zip", tmp_path / "other")
