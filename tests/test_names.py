"""Names of classes and files in any encoding, Unicode form and spelling of numbers."""

import codecs
import io
import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import qprompt
from qprompt.__main__ import main
from qprompt.data.class_names import read_names, read_renames
from qprompt.data.image_folder import read_image_folder
from qprompt.data.item_list import read_item_list
from qprompt.data.spelling import in_order
from qprompt.errors import UserError
from qprompt.io.text import decode
from qprompt.prompt_files.class_names import class_names
from qprompt.prompted_clip import same_prompts
from qprompt.prompts.initial import check_words, context_words
from qprompt.training.picture_run import PictureRun
from qprompt.training.prompt_trainer import PromptTrainer

NAMES = {
    "ascii": ["cat", "dog", "green tea", "F/A-18"],
    "latin": ["café", "crème brûlée", "Škoda", "Ærø", "niño", "łoś", "ryś"],
    "chinese": ["猫", "狗", "一", "绿茶", "蛋糕"],
    "japanese": ["ねこ", "いぬ", "寿司"],
    "cyrillic": ["кошка", "собака", "ёж"],
    "korean": ["고양이", "개"],
    "emoji": ["🐱", "dog 🐶"],
}
UNICODE = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-16 with a mark, big endian")
LEGACY = ("gbk", "gb18030", "big5", "cp1252", "cp1250", "cp1251", "shift_jis", "euc-kr", "latin-1")
many = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
lists = st.sampled_from(sorted(NAMES)).flatmap(
    lambda kind: st.lists(st.sampled_from(NAMES[kind]), min_size=2, max_size=6, unique=True)
)


def encoded(text, encoding):
    if encoding == "utf-16 with a mark, big endian":
        return codecs.BOM_UTF16_BE + text.encode("utf-16-be")
    return text.encode(encoding)


@many
@given(lists, st.sampled_from(UNICODE), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["NFC", "NFD"]))
def test_names_are_read_in_every_unicode_encoding(tmp_path, names, encoding, end, form):
    text = unicodedata.normalize(form, end.join(names) + end)
    (tmp_path / "names.txt").write_bytes(encoded(text, encoding))
    try:
        got = read_names(str(tmp_path / "names.txt"))
    except UserError as refused:  # "一" in UTF-16 without a mark: both byte orders are possible
        assert encoding in ("utf-16-le", "utf-16-be") and "names.txt cannot be read as UTF-8 text" in str(refused)
        return
    assert got == [unicodedata.normalize("NFC", name) for name in names]
    assert class_names(str(tmp_path / "names.txt")) == got


@many
@given(lists, st.sampled_from(LEGACY))
def test_other_encodings_are_read_right_or_refused_with_a_command(tmp_path, names, encoding):
    try:
        data = "\n".join(names).encode(encoding)
    except UnicodeEncodeError:
        return
    (tmp_path / "names.txt").write_bytes(data)
    if data.isascii():
        assert read_names(str(tmp_path / "names.txt")) == names
        return
    try:
        data.decode()
        return  # bytes that are UTF-8 too: "猫" in GBK is "è"
    except UnicodeDecodeError:
        pass
    with pytest.raises(UserError, match="names.txt cannot be read as UTF-8 text") as refused:
        read_names(str(tmp_path / "names.txt"))
    assert "\n" not in str(refused.value) and ("iconv -f" in str(refused.value) or "Save it" in str(refused.value))


def test_command_in_the_refusal_converts_the_file(tmp_path):
    for encoding, names in (("gbk", ["猫", "狗"]), ("cp1252", ["café", "niño"])):
        file = tmp_path / "my names.txt"
        file.write_bytes("\n".join(names).encode(encoding))
        with pytest.raises(UserError, match=f"{names[0] if encoding == 'gbk' else 'café'}") as refused:
            read_names(str(file))
        command = str(refused.value).rpartition("for example: ")[2]
        subprocess.run(command.replace("GBK", encoding), shell=True, check=True)
        assert read_names(str(tmp_path / "my names.utf8.txt")) == names


def test_mark_never_enters_a_name():
    joined = "\ufeffcat\n".encode() + "\ufeffdog\n".encode()  # two files with a mark each
    assert decode(joined, "x").split() == ["cat", "dog"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["names.json", "names.txt"])
def test_json_list_is_a_list(tmp_path, encoding, name):
    file = tmp_path / name
    file.write_text(json.dumps(["café", "dog"], ensure_ascii=False), encoding=encoding)
    assert class_names(str(file)) == ["café", "dog"]
    assert class_names('["café", "dog"]') == ["café", "dog"]


@pytest.mark.parametrize(
    "typed", ["names.txt", "no/where.json", "~/none.csv", "/no/where", "cat,names.txt", "NAMES.TXT", "names", "cat"]
)
def test_names_file_that_does_not_exist_is_not_a_class(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no file .* of class names"):
        class_names(typed)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "label,name\n0,cat\n1,dog"),
        ("a.tsv", "0\tcat\n1\tdog"),
        ("a.txt", "0 cat\n1 dog"),
        ("a.txt", "0: cat\n1: dog"),
        ("a.txt", "n01440764 tench\nn01443537 goldfish"),
        ("a.yaml", "- cat\n- dog"),
        ("a.json", '{"0": "cat"}'),
        ("a.json", "[1, 2]"),
        ("a.json", "{"),
        ("a.txt", '[["cat"], "dog"]'),
    ],
)
def test_other_content_is_refused_by_name(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        class_names(str(tmp_path / name))


@pytest.mark.parametrize("typed", ["cat,dog", "F/A-18,707-320", " cat , dog ", "[cat],dog", "cat,,dog"])
def test_typed_names_are_separated_by_commas(typed):
    assert class_names(typed) == [name.strip() for name in typed.split(",") if name]


# ---- order


@pytest.mark.parametrize(
    "names",
    [
        ["1", "2", "10", "11", "100"],
        ["01", "2", "03", "10"],
        ["class1", "class2", "class10"],
        ["class 1", "class 02", "class 10"],
        ["a1b2", "a1b10", "a2b1"],
        ["\u0661", "\u0662", "\u0661\u0660"],  # Arabic-Indic 1, 2, 10
        ["\uff11", "\uff12", "\uff11\uff10"],  # full-width 1, 2, 10
        ["-2", "-1", "0", "1.25", "1.5", "10.5"],
        ["v1.9", "v1.10"],
        ["0", "00", "1"],
        ["9" * 5000, "1" + "0" * 5000],
        ["Zebra", "apple", "bird"],  # without numbers as before: by code points
        ["B", "a1", "a2"],
    ],
    ids=lambda names: names[-1][:10],
)
def test_numbers_in_names_sort_by_value(names, tmp_path):
    for seed in range(5):
        mixed = random.Random(seed).sample(names, len(names))
        assert in_order(mixed) == names
    if max(map(len, names)) < 200:
        for name in names:
            for k in range(4):
                path = tmp_path / "images" / name / f"{k}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        split = read_image_folder(tmp_path / "images")
        assert [name for _, name in sorted({(i.label, i.classname) for i in split.train})] == names
        # Line n of a file of names is class n.
        (tmp_path / "names.txt").write_text("\n".join(f"word {n}" for n in range(len(names))), encoding="utf-8")
        renamed = read_renames(str(tmp_path / "names.txt"))(split)
        assert {(i.path.split("/")[0], i.classname) for i in renamed.train} == {
            (name, f"word {n}") for n, name in enumerate(names)
        }
    rows = "".join(f"{n}.jpg,{name}\n{n}b.jpg,{name}\n" for n, name in enumerate(names))
    (tmp_path / "list.csv").write_text(f"path,classname\n{rows}", encoding="utf-8")
    listed = read_item_list(tmp_path / "list.csv", tmp_path)
    assert [name for _, name in sorted({(i.label, i.classname) for i in listed.test})] == names


@many
@given(st.lists(st.text(st.sampled_from("ab12\u0663\uff140-. _é"), max_size=8), unique=True, max_size=8))
def test_order_depends_on_the_names_alone(names):
    assert in_order(names) == in_order(reversed(names))
    assert sorted(in_order(names)) == sorted(names)


# ---- Unicode forms


def tree_of(root, *folders, count=4):
    for folder in folders:
        for k in range(count):
            path = os.path.join(
                os.fsencode(root), folder if isinstance(folder, bytes) else folder.encode(), b"%d.jpg" % k
            )
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "wb").close()
    return root


def form(kind, text):
    return unicodedata.normalize(kind, text)


def test_one_class_in_two_forms_in_two_parts_is_one_class(tmp_path):
    tree_of(tmp_path, form("NFC", "train/café"), "train/dog", form("NFD", "test/café"))
    split = read_image_folder(tmp_path)
    assert {item.classname for item in (*split.train, *split.test)} == {form("NFC", "café"), "dog"}
    assert all((tmp_path / item.path).is_file() for part in split for item in part)


def test_one_class_in_two_forms_in_one_part_is_refused(tmp_path):
    tree_of(tmp_path, form("NFC", "café"), form("NFD", "café"), "dog")
    with pytest.raises(UserError, match="two folders for the class 'café'") as refused:
        read_image_folder(tmp_path)
    assert r"'cafe\u0301'" in str(refused.value)


def test_split_does_not_depend_on_the_form(tmp_path):
    splits = []
    for kind in ("NFC", "NFD"):
        root = tree_of(tmp_path / kind, form(kind, "café"), form(kind, "naïve"), count=20)
        splits.append([[form("NFC", item.path) for item in part] for part in read_image_folder(root)])
    assert splits[0] == splits[1]


@pytest.mark.parametrize("kinds", [("NFC", "NFD"), ("NFD", "NFC")])
def test_list_finds_files_in_the_other_form(tmp_path, kinds):
    tree_of(tmp_path, form(kinds[0], "é/ü"), "dog")
    rows = [f"é/ü/{k}.jpg,café" for k in range(4)] + [f"dog/{k}.jpg,dog" for k in range(4)]
    (tmp_path / "l.csv").write_text(form(kinds[1], "\n".join(["path,classname", *rows])), encoding="utf-8")
    split = read_item_list(tmp_path / "l.csv", tmp_path)
    assert all((tmp_path / item.path).is_file() for part in split for item in part)


@pytest.mark.parametrize(
    "lines",
    [
        ["0 cat", "1 dog"],
        ["1 cat", "2 dog"],
        ["1. cat", "2. dog"],
        ["01: cat", "02: dog"],
        ["n02123045 cat", "n02084071 dog"],
        ["- cat", "- dog"],
        ["\u2022 cat", "\u2022 dog"],
        ['"cat",', '"dog"'],
        ["'cat'", "'dog'"],
        ["cat\tn01", "dog\tn02"],
        ["# classes", "cat", "dog"],
        ["// classes", "cat", "dog"],
    ],
    ids=str,
)
def test_file_of_names_with_more_than_names_is_refused(tmp_path, lines):
    (tmp_path / "names.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="expected one name per line and nothing else, got"):
        read_names(str(tmp_path / "names.txt"))


@pytest.mark.parametrize(
    "lines", [["#1 fan", "7up"], ["1", "2"], ["-1", "-2"], ["1.5 liter", "2.5 liter"], ["'t is", "cat's"], ["- a", "b"]]
)
def test_names_that_only_look_like_more_are_names(tmp_path, lines):
    (tmp_path / "names.txt").write_text("\n".join(lines), encoding="utf-8")
    assert read_names(str(tmp_path / "names.txt")) == lines


# ---- prompts that are the same tokens

SAME = [
    ("Cat", "cat"),
    ("green_tea", "green tea"),
    ("green  tea", "green tea"),
    (form("NFC", "café"), form("NFD", "café")),
    ("Straße".upper(), "strasse"),
    ("\uff43\uff41\uff54", "cat"),  # full width
    ("cats &amp; dogs", "cats & dogs"),
]


@pytest.mark.parametrize("pair", SAME, ids=lambda pair: pair[0])
def test_classes_with_the_same_prompt_are_found(pair, tmp_path, capsys):
    assert same_prompts(["dog", *pair, "owl"]) == [list(pair)]
    (tmp_path / "l.csv").write_text(
        "path,label,classname\n" + "".join(f"{k}.jpg,{k % 2},{pair[k % 2]}\n" for k in range(8)), encoding="utf-8"
    )
    tree_of(tmp_path, "x")
    for k in range(8):
        (tmp_path / f"{k}.jpg").touch()
    command = ["check-data", str(tmp_path), "ImageList", "--list", str(tmp_path / "l.csv"), "--structure-only"]
    code = main(command)
    composed = form("NFC", pair[0]) != form("NFC", pair[1])
    assert code == 1 and "error [same-prompt] 2 classes have the same prompt" in capsys.readouterr().out, composed
    (tmp_path / "other.json").write_text(json.dumps(["cat", "dog"]))
    assert main([*command, "--classnames", str(tmp_path / "other.json")]) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("___", "'___' has no words"),
        ("\u00a0", "has no words"),
        ("cat <|endoftext|>", "contains CLIP's mark of the start or the end of a text"),
        ("<|startoftext|>", "contains CLIP's mark"),
    ],
)
def test_names_without_words_are_found(name, words, tmp_path, capsys):
    tree_of(tmp_path, name, "dog")
    command = ["check-data", str(tmp_path), "ImageFolder", "--structure-only"]
    assert main(command) == 1
    assert "[no-words] the class name" in (out := capsys.readouterr().out) and words in out
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert main([*command, "--classnames", str(tmp_path / "names.txt")]) == 0
    dataset = SimpleNamespace(classnames=["dog", name])
    trainer = SimpleNamespace(
        dm=SimpleNamespace(dataset=dataset), cfg=SimpleNamespace(DATASET=SimpleNamespace(NAME="x"))
    )
    with pytest.raises(UserError, match=words):
        PromptTrainer.check_class_names(trainer)


FAST = ["--backbone", "tiny", "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0"]


def test_classes_with_the_same_prompt_are_refused_before_training(tmp_path, monkeypatch, capsys):
    tree_of(tmp_path / "pets", "Cat", "cat", "dog")
    monkeypatch.chdir(tmp_path)
    for trainer in ("QCoOp", "QMaPLe"):
        assert main(["train", str(tmp_path / "pets"), "--trainer", trainer, *FAST]) == 2
        assert "'Cat' and 'cat'. Put their images into one class, or give" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["dog,Cat,cat", "dog,caf\u00e9,cafe\u0301", "a  b,a_b"])
def test_classes_with_the_same_prompt_are_refused_for_a_stored_prompt(given):
    with pytest.raises(UserError, match="one prompt for CLIP|have the same prompt"):
        qprompt.load_classifier(Path(__file__).parent / "golden/run_0.1/finished/prompt_learner/prompt.qprompt", given)


@pytest.mark.parametrize("name", ["ImageNet", "ImageFolder"])
def test_benchmark_keeps_its_classes_with_the_same_prompt(name, caplog):
    trainer = SimpleNamespace(
        dm=SimpleNamespace(dataset=SimpleNamespace(classnames=["sunglasses", "Sunglasses", "tench"])),
        cfg=SimpleNamespace(DATASET=SimpleNamespace(NAME=name)),
    )
    if name == "ImageNet":
        PromptTrainer.check_class_names(trainer)
        assert "2 classes have the same prompt" in caplog.text
    else:
        with pytest.raises(UserError, match="2 classes have the same prompt"):
            PromptTrainer.check_class_names(trainer)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("a photo of a {}.", "a photo of a"),
        ("a_photo_of_a_{}", "a photo of a"),
        ("a photo of a {}, a type of pet.", "a photo of a"),
        ("a photo of a {class}", "a photo of a"),
        ("a photo of %s", "a photo of"),
        ("an image of [CLASS]", "an image of"),
        ("<name> in the wild", "in the wild"),
        ("itap of a CLASS.", "itap of a"),
        ("{}", "a photo of a"),
        ("{} texture.", "texture"),
        ("a photo of a $class", "a photo of a"),
        ("a photo of a ${name}.", "a photo of a"),
    ],
)
def test_place_for_the_class_name_in_the_initial_words_is_refused(typed, words):
    with pytest.raises(UserError, match="would be learned as a word") as refused:
        check_words(typed, "TRAINER.COOP.CTX_INIT")
    assert str(refused.value).endswith(f"Type TRAINER.COOP.CTX_INIT {words!r}.") or "_" in typed
    check_words(words, "TRAINER.COOP.CTX_INIT")


@pytest.mark.parametrize(
    "words", ["", "a photo of a", "a_photo_of_a", "X X X X", "a classy photo of a", "50% of a", "a $5 toy"]
)
def test_other_initial_words_are_taken(words):
    check_words(words, "TRAINER.COOP.CTX_INIT")


@pytest.mark.parametrize(
    "typed", [" a photo", "a photo ", "a  photo", "a__photo", "a\nphoto", "a\t photo", "a\xa0photo"]
)
def test_blanks_that_would_count_as_words_are_refused(typed):
    with pytest.raises(UserError, match="Type TRAINER.COOP.CTX_INIT 'a photo'."):
        check_words(typed, "TRAINER.COOP.CTX_INIT")


@pytest.mark.parametrize(("typed", "tokens"), [("a photo of", 0), ("a photo of a.", 5), ("\u200ba photo", 3), ("", 0)])
def test_words_of_several_tokens_are_not_learned_in_silence(typed, tokens, caplog):
    with caplog.at_level("WARNING", "qprompt"):
        assert context_words(typed, 4)[1] == (len(typed.split()) or 4)
    assert [f"but {tokens} tokens" in record.getMessage() for record in caplog.records] == [True] * bool(tokens)


@pytest.mark.parametrize("node", ["COOP", "MAPLE", "COCOOP"])
def test_initial_words_are_checked_before_training(node, tmp_path, monkeypatch, capsys):
    tree_of(tmp_path / "pets", "cat", "dog")
    monkeypatch.chdir(tmp_path)
    trainer = {"COOP": "QCoOp", "MAPLE": "MaPLe", "COCOOP": "CoCoOp"}[node]
    key = f"TRAINER.{node}.CTX_INIT"
    assert main(["train", str(tmp_path / "pets"), "--trainer", trainer, *FAST, key, "a photo of a {}."]) == 2
    assert f"Type {key} 'a photo of a'." in capsys.readouterr().err


def test_names_that_differ_are_not_the_same():
    assert same_prompts(["cat", "cats", "dog", "hot dog", "hotdog", "1", "10", "c", "C++"]) == []


def test_long_names_are_foreseen(tmp_path, capsys):
    tree_of(tmp_path, " ".join(["cat"] * 60), " ".join(["dog"] * 63)[:250], "owl")
    assert main(["check-data", str(tmp_path), "ImageFolder", "--structure-only"]) == 0
    out = capsys.readouterr().out
    assert "warning [long-name]" in out and "has 60 tokens: of the 77 of a prompt, 14 are left for the context" in out
    (tmp_path / "names.json").write_text(json.dumps({"owl": " ".join(["owl"] * 80)}))
    command = [
        "check-data",
        str(tmp_path),
        "ImageFolder",
        "--structure-only",
        "--classnames",
        str(tmp_path / "names.json"),
    ]
    assert main(command) == 1
    assert "error [long-name]" in capsys.readouterr().out
    (tmp_path / "names.json").write_text(
        json.dumps({" ".join(["cat"] * 60): "cat", " ".join(["dog"] * 63)[:250]: "dog"})
    )
    assert main(command) == 0
    assert "long-name" not in capsys.readouterr().out


# ---- a whole run

FOLDERS = (b"caf\xe9", form("NFD", "né").encode(), "猫".encode(), b"10", b"2")


def test_run_on_names_of_any_bytes_to_its_end(tmp_path, monkeypatch, capfdbinary):
    """metrics.json, prompt file, report, look, predict, and the same command again."""
    root = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"r\xe9p"))
    for number, folder in enumerate(FOLDERS):
        for k in range(4):
            path = os.path.join(os.fsencode(root), folder, b"p\xff%d.png" % k)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                Image.new("RGB", (40, 40), (40 * number, 60 * k, 90)).save(file, "PNG")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # figures take long
    train = [
        "train",
        root,
        "--backbone",
        "tiny",
        "--out",
        "outé",
        "OPTIM.MAX_EPOCH",
        "1",
        "DATALOADER.NUM_WORKERS",
        "0",
    ]
    assert main(train) == 0
    record = json.loads((tmp_path / "outé/metrics.json").read_text(encoding="utf-8"))
    assert record["config"]["DATASET"]["ROOT"] == root and record["pixels"] == "viewer"
    prompt = "outé/prompt_learner/prompt.qprompt"
    assert qprompt.inspect(prompt)["classnames"] == ["2", "10", "caf\ufffd", form("NFC", "né"), "猫"]
    capfdbinary.readouterr()
    assert main(train) == 0
    assert b"finished" in capfdbinary.readouterr().out
    for command in (
        ["report", "outé"],
        ["report", "outé", "--out", "report"],
        ["look", "outé"],
        ["inspect", prompt],
        ["predict", prompt, root],
        ["predict", prompt, root, "--json"],
        ["check-data", root, "ImageFolder", "--workers", "1", "--json", "found.json"],
        ["export", prompt, "--features", "features.npz"],
    ):
        assert main(command) == 0, command
    assert r"r\xe9p" in (tmp_path / "report/report.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["root"] == root
    assert main([*train[:4], "--out", os.fsdecode(b"o\xe9")]) == 2
    assert rb"'o\udce9', is not UTF-8: type --output-dir o_." in capfdbinary.readouterr().err


def test_output_folder_of_pictures_in_any_bytes_has_a_name_in_utf_8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, expected in ((b"pets\xe9", "pets\ufffd"), (b"pets.v1", "pets.v1"), (b"pets.v1.csv", "pets.v1")):
        if not name.endswith(b"csv"):
            os.mkdir(name)
        assert PictureRun(os.fsdecode(name)).output == Path("output") / expected / "QCoOp"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1", "cp1252"])
def test_names_are_printed_in_any_encoding(tmp_path, monkeypatch, encoding):
    tree_of(tmp_path, b"caf\xe9", "猫", "dog")
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding=encoding))
    assert main(["check-data", str(tmp_path), "ImageFolder", "--structure-only"]) == 0
    assert b"ImageFolder: ok" in printed.getvalue()
