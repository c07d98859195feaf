"""Names of classes and files in any encoding, Unicode form and spelling of numbers."""

import codecs
import json
import subprocess
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qprompt.data.class_names import read_names
from qprompt.errors import UserError
from qprompt.io.text import decode
from qprompt.prompt_files.class_names import class_names

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
many = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
