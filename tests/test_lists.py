"""Lists of images as people and programs write them: read as they are meant, or refused by what is wrong."""

import json

import pytest
from test_folder_layouts import make

from qprompt.data.item_list import read_item_list
from qprompt.errors import UserError

ROWS = [f"{name}/{k}.jpg,{name}" for name in ("cat", "dog") for k in range(4)]
CSV = "\n".join(["path,classname", *ROWS, ""])
PAIRS = [row.split(",") for row in ROWS]


@pytest.fixture
def root(tmp_path):
    return make(tmp_path, "cat/", "dog/")


def read(root, text, name="list.csv", encoding="utf-8"):
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return read_item_list(root / name, root)


READ = {
    "CRLF": CSV.replace("\n", "\r\n"),
    "CR": CSV.replace("\n", "\r"),
    "spaces and capitals": CSV.replace("path,classname", " Path , Class Name "),
    "an index": "\n".join([",path,classname", *(f"{k},{row}" for k, row in enumerate(ROWS))]),
    "quotes": "\n".join(["path,classname", *(f'"{path}","{name}"' for path, name in PAIRS)]),
    "backslashes": CSV.replace("/", "\\"),
    "empty rows": f"{CSV}\n,\n , \n",
    "tabs": CSV.replace(",", "\t"),
    "dots and slashes": CSV.replace("cat/", "././cat//./"),
    "file_name and label": CSV.replace("path,classname", "file_name,label"),
    "columns of others": "\n".join(["width,img,species,class", *(f"3,{path},x,{name}" for path, name in PAIRS)]),
}


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_is_meant_is_read(root, kind, encoding):
    split = read(root, READ[kind], encoding=encoding)
    assert sorted((item.path, item.classname) for part in split for item in part) == sorted(map(tuple, PAIRS))


REFUSED = {
    "no names of columns": ("\n".join(ROWS), "csv", "begins with an image.*add a first line path,classname,split"),
    "a column twice": (CSV.replace("path,classname", "class,Class"), "csv", "two of its columns are called 'class'"),
    "other separators": (CSV.replace(",", "|"), "csv", "has columns path|classname; expected path,classname,split"),
    "one column per class": ("path,cat,dog\ncat/0.jpg,1,0\n", "csv", "has columns path, cat, dog; expected"),
    "an object of paths": (json.dumps(dict(PAIRS)), "json", 'expected rows with {"path": "cat/1.jpg", "classname"'),
    "pairs": (json.dumps(PAIRS), "json", 'expected rows with {"path"'),
    "lists in rows": ('{"path": "cat/0.jpg", "class": ["cat", "dog"]}', "jsonl", "row 1 holds a list or an object"),
    "a line that is cut": ('{"path": "cat/0.jpg", "class": "cat"}\n{"path":', "jsonl", "line 2 is not JSON"),
    "a class that is missing": ('[{"path": "cat/0.jpg", "class": NaN}]', "json", "row 1 has no class|cannot be read"),
    "half a character": (
        '[{"path": "cat/0.jpg", "class": "\\ud800"}]',
        "json",
        "row 1 holds characters that",
    ),
    "half a character in a path": (
        '[{"path": "/\\ud800/a", "class": "x"}]',
        "json",
        "row 1 holds characters that",
    ),
    "a spreadsheet": ("", "xlsx", "is a spreadsheet or an archive: save it as CSV"),
    "a text file": (CSV, "txt", "expected a .csv, .tsv, .json or .jsonl file"),
    "one class": (CSV.replace("dog", "cat").replace("cat/0.jpg,cat\n", "", 1), "csv", "is listed twice|one class"),
    "names of columns only": ("path,classname\n", "csv", "expected rows with path,classname,split"),
    "a field without end": (f"path,classname\n{'x' * 200_000},cat\n", "csv", "field larger than field limit"),
    "parts by number": (
        CSV.replace("classname", "classname,split").replace(".jpg,cat", ".jpg,cat,0"),
        "csv",
        "split is",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_meant_is_refused_by_what_is_wrong(root, kind):
    text, suffix, words = REFUSED[kind]
    with pytest.raises(UserError, match=words) as error:
        read(root, text, f"list.{suffix}")
    assert f"list.{suffix}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name, warned", [("is_train", True), ("fold", True), ("Valid", True), ("width", False)])
def test_columns_that_are_not_used_are_said(root, caplog, name, warned):
    caplog.set_level("INFO")
    read(root, "\n".join([f"path,classname,{name}", *(f"{row},1" for row in ROWS)]))
    (record,) = [record for record in caplog.records if "not used" in record.message]
    assert name in record.message and (record.levelname == "WARNING") == warned
