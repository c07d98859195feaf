"""Readers of data sets: splits, few-shot draws, image lists, annotations, archives, images."""

import functools
import io
import json
import os
import pickle
import random
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.formats import in_json, in_list, in_tar, in_zip
from fuzzing.target import Target
from qprompt.data import archives, class_names, coop_pickle, fewshot, images, item_list, readers
from qprompt.data.items import Item, Split, split_hash
from qprompt.errors import UserError

SPLIT = {part: [[f"cat/{part}{i}.jpg", i % 2, ("cat", "dog")[i % 2]] for i in range(4)] for part in Split._fields}
ITEMS = Split(*([Item(*row) for row in rows] for rows in SPLIT.values()))
ANNOTATIONS = {
    "variants.txt": b"707-320\n727-200\n",
    "images_variant_train.txt": b"1025794 707-320\n1025795 727-200\n",
    "images_variant_val.txt": b"1025796 707-320\n",
    "images_variant_test.txt": b"1025797 727-200\n",
}


def targets() -> dict[str, Target]:
    return {
        "CoOp's pickle": Target("shot_1-seed_1.pkl", _pickles(), coop_pickle.read_records),
        "split": Target("split_zhou_X.json", [json.dumps(SPLIT).encode()], _read_split, in_json),
        "few-shot draw": Target("draw.json", [_draw()], _read_draw, in_json),
        "image list": Target("list.in", _lists(), _read_list, in_list),
        "annotations": Target("list.txt", list(ANNOTATIONS.values()), _read_annotations),
        "tar": Target("a.tar", _tars(), _unpack, in_tar),
        "zip": Target("a.zip", [_zip()], _unpack, in_zip),
        "image": Target("i.img", _images(), images.read_image),
    }


def _pickles() -> list[bytes]:
    """CoOp's few-shot caches: pickles of Dassl's Datum, in several protocols."""

    class Datum:
        def __init__(self, *fields: Any) -> None:
            self._impath, self._label, self._domain, self._classname = fields

    name = "dassl.data.datasets.base_dataset"
    Datum.__module__, Datum.__qualname__ = name, "Datum"
    before, sys.modules[name] = sys.modules.get(name), ModuleType(name)
    sys.modules[name].Datum = Datum  # type: ignore[attr-defined]
    lists = {part: [Datum(f"/data/a/{i}.jpg", i % 2, 0, "cat") for i in range(3)] for part in ("train", "val")}
    found = [pickle.dumps(lists, protocol) for protocol in (0, 2, 4, 5)]
    del sys.modules[name]
    if before is not None:
        sys.modules[name] = before
    return found


def _read_split(path: Path) -> None:
    fewshot.missing_files = lambda *_: []  # type: ignore[assignment]  # there are no images
    source = fewshot.Source(path.parent, lambda rng: fewshot.read_split(path))
    for subset in ("base", "all"):
        fewshot.load(source, shots=2, seed=1, subset=subset, write=False)


def _draw() -> bytes:
    parts = {"train": SPLIT["train"][:2], "val": SPLIT["val"]}
    return json.dumps({"format": 1, "split": split_hash(ITEMS), "shots": 1, "seed": 1, **parts}).encode()


def _read_draw(path: Path) -> None:
    fewshot._read_cache(path, ITEMS, split_hash(ITEMS))


def _lists() -> list[bytes]:
    rows = [{"path": f"a/{i}.jpg", "label": i % 2, "classname": "ab"[i % 2], "split": "train"} for i in range(4)]
    return [json.dumps(rows).encode(), b"path,classname,split\na/1.jpg,cat,train\nb/2.jpg,dog,test\nb/3.jpg,dog,val\n"]


def _read_list(path: Path) -> None:
    def renamed(suffix: str) -> Path:
        return Path(shutil.copyfile(path, path.with_name(f"list{suffix}")))

    _try_all(
        *(functools.partial(item_list.read_item_list, renamed(s), path.parent) for s in (".csv", ".json", ".jsonl")),
        lambda: class_names.read_renames(str(renamed(".json")))(ITEMS),
    )


def _read_annotations(path: Path) -> None:
    for name, content in ANNOTATIONS.items():
        (path.parent / name).write_bytes(content)
    shutil.copyfile(path, path.parent / "images_variant_train.txt")
    train = functools.partial(readers.fgvc_aircraft, path.parent, random.Random(0))

    def variants() -> None:
        shutil.copyfile(path, path.parent / "variants.txt")
        train()

    _try_all(train, variants)


def _try_all(*readings: Callable[[], Any]) -> None:
    """Call all readers; raise the last refusal if all refuse."""
    refusals = []
    for reading in readings:
        try:
            reading()
        except UserError as error:
            refusals.append(error)
    if len(refusals) == len(readings):
        raise refusals[-1]


def _tars() -> list[bytes]:
    found = []
    for mode in ("w", "w:gz"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as archive:
            for name in ("a/b.txt", "c.txt"):
                info = tarfile.TarInfo(name)
                info.size = 5
                archive.addfile(info, io.BytesIO(b"hello"))
        found.append(out.getvalue())
    return found


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/b.txt", "hello")
        archive.writestr("c.txt", "hello" * 9, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _unpack(path: Path) -> None:
    try:
        archives.unpack(path, path.parent / "target")
    finally:
        outside = [name for name in os.listdir(path.parent) if name not in (path.name, "target")]
        assert not outside, f"written outside the target folder: {outside}"
        shutil.rmtree(path.parent / "target", ignore_errors=True)


def _images() -> list[bytes]:
    image = Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))
    found = []
    for format_ in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        out = io.BytesIO()
        image.save(out, format_)
        found.append(out.getvalue())
    return found
