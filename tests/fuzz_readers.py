"""Give every reader of files many damaged ones: each is read, or refused with a UserError.

  python tests/fuzz_readers.py --inputs 100000 --seed 0 [--readers "prompt file" ...]

A reader fails with any other error, a crash, ten seconds of computing over one file, a file outside its folder, or
memory beyond 512 MB, asked for or taken (a file of a few kB that makes its reader ask for more has put a number into
its header).
The failing file is kept and named. What is damaged is small, so that damage hits something: see mutate.py.
"""

import argparse
import collections
import contextlib
import functools
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(HERE), str(HERE / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from mutate import damaged, edited  # noqa: E402

from qprompt.backbones.weights import read_weights  # noqa: E402
from qprompt.data import archives, class_names, coop_pickle, fewshot, images, item_list, readers  # noqa: E402
from qprompt.data.items import Item, Split, split_hash  # noqa: E402
from qprompt.engine import activate  # noqa: E402
from qprompt.errors import UserError  # noqa: E402
from qprompt.prompt_files import format as prompt_file  # noqa: E402
from qprompt.prompt_files.packing import save  # noqa: E402
from qprompt.prompt_files.upstream import find_prompts  # noqa: E402
from qprompt.quantization import recorder  # noqa: E402
from qprompt.quantization.api import quantize_  # noqa: E402
from qprompt.report import records  # noqa: E402
from qprompt.runs import config  # noqa: E402
from qprompt.runs.folder import claim  # noqa: E402
from qprompt.runs.identity import RunSettings  # noqa: E402
from qprompt.sweep.spec import read_spec  # noqa: E402
from qprompt.training.defaults import extend_cfg  # noqa: E402
from qprompt.training.feature_store import FeatureFiles  # noqa: E402

MEMORY = 512 * 2**20
Mutate = Callable[[bytes, list[bytes], random.Random], bytes]


class Target(NamedTuple):
    """A reader: what it is given is one of `seeds`, mutated, in a file called `name`."""

    name: str
    seeds: list[bytes]
    read: Callable[[Path], Any]
    mutate: Mutate = damaged
    errors: tuple[type[Exception], ...] = (UserError,)


# --- damage below a checksum


def in_json(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Half of the time damage to the text, half of the time other values in it."""
    if random_.random() < 0.5:
        return damaged(data, others, random_)
    tree = edited(json.loads(data), random_)
    return json.dumps(tree, ensure_ascii=random_.random() < 0.9).encode("utf-8", "surrogatepass")


def in_lines(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """The same for JSON lines."""
    lines = data.splitlines(keepends=True)
    at = random_.randrange(len(lines))
    return b"".join([*lines[:at], in_json(lines[at].strip(), others, random_), b"\n", *lines[at + 1 :]])


def in_prompt_file(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Damage that the checksum does not give away."""
    if random_.random() < 0.3:
        return damaged(data, others, random_)
    start = 8 + int.from_bytes(data[:8], "little")
    outer, body = json.loads(data[8:start]), data[start:]
    about = json.loads(outer.pop("__metadata__")["qprompt"])
    about.pop("checksum")
    which = random_.randrange(3)
    if which == 0:
        about = edited(about, random_)
    elif which == 1:
        outer = edited(outer, random_)
    else:
        body = damaged(body, others, random_)
    if isinstance(about, dict) and isinstance(outer, dict):
        about["checksum"] = prompt_file._checksum(about, outer, body)
        outer = {**outer, "__metadata__": {"qprompt": json.dumps(about)}}
    text = json.dumps(outer).encode()
    return len(text).to_bytes(8, "little") + text + body


@functools.lru_cache(maxsize=64)
def _members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def in_zip(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Half of the time damage to the archive, half of the time to what one of its files holds."""
    if random_.random() < 0.3:
        return damaged(data, others, random_)
    members = list(_members(data))
    at = max(random_.randrange(len(members)) for _ in range(2)) if random_.random() < 0.3 else 0
    name, content = members[at]
    if random_.random() < 0.1:
        name = random_.choice(["../x", "/x", "a/../../x", name + "/", "", "\0", "a\\b", name.upper()])
    members[at] = (name, damaged(content, [m for _, m in members], random_))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", random_.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def in_tar(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Damage to one header, its checksum made right again, or to anything."""
    if random_.random() < 0.3 or len(data) < 512:  # the compressed one
        return damaged(data, others, random_)
    block = bytearray(data)
    header = 512 * random_.randrange(len(data) // 512)
    field, size = random_.choice([(0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)])
    text = random_.choice(
        [b"../x", b"/x", b"a/../../x", b"77777777777\0", b"\x80" + b"\xff" * 11, b"", b"1", b"2", b"L", b"x"]
    )
    block[header + field : header + field + size] = text[:size].ljust(size, b"\0")
    block[header + 148 : header + 156] = b" " * 8
    block[header + 148 : header + 156] = b"%06o\0 " % sum(block[header : header + 512])
    return bytes(block)


# --- the readers and what they are given


def in_features(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """Damage that the digest in front does not give away."""
    data = in_zip(data[32:], [], random_)
    return hashlib.sha256(data).digest() + data


def _feature_seeds() -> list[bytes]:
    found = [_saved({"img": torch.randn(3, 4), "impath": ["a", "b", "c"], "label": [1, 2, 3]})]
    return [hashlib.sha256(data).digest() + data for data in found]


def _read_features(path: Path) -> None:
    if FeatureFiles(path.parent, 2**30).read("k") is None:
        raise UserError("as if it were not there")


def _prompt_seeds() -> list[bytes]:
    torch.manual_seed(0)
    learner = torch.nn.Module()
    learner.ctx = torch.nn.Parameter(torch.randn(2, 6))
    learner.bias = torch.nn.Parameter(torch.randn(3))
    found = []
    for bits in (1, 3, 16):
        quantize_(learner, names=["ctx"], bits=bits)
        with tempfile.NamedTemporaryFile() as file:
            save(learner, file.name, words="a photo", class_position="end")
            found.append(Path(file.name).read_bytes())
        torch.nn.utils.parametrize.remove_parametrizations(learner, "ctx")
    return found


def _checkpoint_seeds() -> list[bytes]:
    learner = torch.nn.Module()
    learner.ctx = torch.nn.Parameter(torch.randn(2, 6))
    plain = {"state_dict": learner.state_dict(), "epoch": 3, "optimizer": None, "val_result": 1.5}
    quantize_(learner, names=["ctx"], bits=2)
    ours = {**plain, "state_dict": learner.state_dict(), "run": {"config": {"OPTIM.LR": 0.1}, "random": [1, "a"]}}
    alive = {**plain, "scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD(learner.parameters(), 0.1), 1)}
    return [_saved(plain), _saved(ours), _saved(alive), _saved(plain, _use_new_zipfile_serialization=False)]


def _saved(content: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def _read_checkpoint(path: Path) -> None:
    from dassl.utils import load_checkpoint

    content = load_checkpoint(str(path))
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if isinstance(state, dict):
        for tensor in state.values():
            if isinstance(tensor, torch.Tensor):
                tensor.double().sum()  # reads all that it claims to hold
        find_prompts(state)


def _read_weights(path: Path) -> None:
    for tensor in read_weights(path).values():
        tensor.double().sum()


def _safetensors() -> bytes:
    from safetensors.torch import save as to_bytes

    return to_bytes({"a": torch.randn(3), "b.weight": torch.randn(2, 2).half()})


def _pickles() -> list[bytes]:
    class Datum:
        def __init__(self, *fields: Any) -> None:
            self._impath, self._label, self._domain, self._classname = fields

    Datum.__module__, Datum.__qualname__ = "dassl.data.datasets.base_dataset", "Datum"
    modules = ["dassl.data.datasets.base_dataset"]
    before = {name: sys.modules.get(name) for name in modules}
    for name in modules:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].Datum = Datum  # type: ignore[attr-defined]
    lists = {part: [Datum(f"/data/a/{i}.jpg", i % 2, 0, "cat") for i in range(3)] for part in ("train", "val")}
    found = [pickle.dumps(lists, protocol) for protocol in (0, 2, 4, 5)]
    for name, module in before.items():
        sys.modules.pop(name)
        if module is not None:
            sys.modules[name] = module
    return found


_SPLIT = {part: [[f"cat/{part}{i}.jpg", i % 2, ("cat", "dog")[i % 2]] for i in range(4)] for part in Split._fields}
_FULL = Split(*([Item(*row) for row in rows] for rows in _SPLIT.values()))


def _read_split(path: Path) -> None:
    fewshot.missing_files = lambda *_: []  # type: ignore[assignment]  # the images are not what is tested
    source = fewshot.Source(path.parent, lambda rng: fewshot.read_split(path))
    for subset in ("base", "all"):
        fewshot.load(source, shots=2, seed=1, subset=subset, write=False)


def _draw() -> bytes:
    parts = {"train": _SPLIT["train"][:2], "val": _SPLIT["val"]}
    return json.dumps({"format": 1, "split": split_hash(_FULL), "shots": 1, "seed": 1, **parts}).encode()


def _read_draw(path: Path) -> None:
    fewshot._read_cache(path, _FULL, split_hash(_FULL))


def in_list(data: bytes, others: list[bytes], random_: random.Random) -> bytes:
    """By its format: JSON or CSV."""
    return (in_json if data.startswith(b"[") else damaged)(data, others, random_)


def _list_seeds() -> list[bytes]:
    rows = [{"path": f"a/{i}.jpg", "label": i % 2, "classname": "ab"[i % 2], "split": "train"} for i in range(4)]
    return [json.dumps(rows).encode(), b"path,classname,split\na/1.jpg,cat,train\nb/2.jpg,dog,test\nb/3.jpg,dog,val\n"]


def _any_of(*readings: Callable[[], Any]) -> None:
    """All of them; the last refusal if all refuse."""
    refusals = []
    for reading in readings:
        try:
            reading()
        except UserError as error:
            refusals.append(error)
    if len(refusals) == len(readings):
        raise refusals[-1]


def _read_list(path: Path) -> None:
    def renamed(suffix: str) -> Path:
        return Path(shutil.copyfile(path, path.with_name(f"list{suffix}")))

    _any_of(
        *(functools.partial(item_list.read_item_list, renamed(s), path.parent) for s in (".csv", ".json", ".jsonl")),
        lambda: class_names.read_renames(str(renamed(".json")))(_FULL),
    )


_ANNOTATIONS = {
    "variants.txt": b"707-320\n727-200\n",
    "images_variant_train.txt": b"1025794 707-320\n1025795 727-200\n",
    "images_variant_val.txt": b"1025796 707-320\n",
    "images_variant_test.txt": b"1025797 727-200\n",
}


def _read_annotations(path: Path) -> None:
    for name, content in _ANNOTATIONS.items():
        (path.parent / name).write_bytes(content)
    shutil.copyfile(path, path.parent / "images_variant_train.txt")
    train = functools.partial(readers.fgvc_aircraft, path.parent, random.Random(0))

    def variants() -> None:
        shutil.copyfile(path, path.parent / "variants.txt")
        train()

    _any_of(train, variants)


@functools.cache
def _defaults() -> Any:
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    extend_cfg(cfg)
    return cfg


def _read_config(path: Path) -> None:
    cfg = _defaults()
    lr, name = cfg.OPTIM.LR, cfg.OPTIM.NAME
    try:
        config.merge_file(cfg, str(path))
    finally:
        cfg.OPTIM.LR, cfg.OPTIM.NAME = lr, name
    config.merge_options(cfg, ["OPTIM.NAME", path.read_text(encoding="utf-8", errors="replace")])


_YAML = b"""OPTIM:
  LR: 0.002
  NAME: "sgd"
INPUT:
  SIZE: (48, 48)
  TRANSFORMS: ["normalize"]
"""
_SWEEP = {
    "protocol": "base2new", "datasets": ["tiny_world@0-2"], "trainers": {"QCoOp": {"default": "tiny", "4": "x"}},
    "shots": [1, 16], "seeds": "1-3", "settings": {"OPTIM": {"LR": 0.1}}, "variants": {"a": {"OPTIM.LR": 1}},
    "grid": {"TRAINER.QUANT.BITS": [1, 2]}, "load_epoch": "last",
}  # fmt: skip


def _archives() -> list[bytes]:
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
        assert not outside, f"escaped: {outside}"
        shutil.rmtree(path.parent / "target", ignore_errors=True)


def _record(path: Path, part: bool = False) -> None:
    if not part:
        recorder.read(path)
        return
    taken_up = recorder.Recorder(path.with_suffix(".npz"))
    taken_up.part = path
    taken_up._append(5, rows={"ctx": [0.0] * 6})
    taken_up.close()


def _record_seeds() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        record = recorder.Recorder(Path(folder, "r.npz"))
        for step in range(2):
            record._append(step, codebook={"ctx": [[0.0, 1.0]]})
            record._append(step, rows={"ctx": [0.0, 1.0, 0.1, 0.2, 3.0, 1.0]})
            record._append(step, histogram={"ctx": [[0.0, 1.0], [1] * 4]})
        lines = record.part.read_bytes()
        record.close()
        return Path(folder, "r.npz").read_bytes(), lines


def _metrics() -> list[bytes]:
    one = {
        "schema": 1, "mode": "eval", "trainer": "QCoOp", "dataset": "TinyWorld", "seed": 1, "shots": 4,
        "classes": "new", "backbone": "tiny", "results": {"accuracy": 50.0},
        "curve": [{"epoch": 1, "accuracy": 5.0}], "load_epoch": 3,
        "prompt": {"payload_bytes": 5}, "config": {"DATASET": {"DRAW": 0}}, "changed": {"SEED": 1}, "time_s": 1.0,
    }  # fmt: skip
    return [json.dumps(one).encode()]


def _read_metrics(path: Path) -> None:
    records.read_run(path)


_SETTINGS = RunSettings.of({"OPTIM": {"LR": 0.1}, "SEED": 1}, {"OPTIM": {"LR": 0.1}, "SEED": 2}, "train")


def _claim(path: Path) -> None:
    with claim(str(path.parent), _SETTINGS):
        pass


def _pictures() -> list[bytes]:
    from PIL import Image

    picture = Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))
    found = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        out = io.BytesIO()
        picture.save(out, kind)
        found.append(out.getvalue())
    return found


def targets() -> dict[str, Target]:
    """Every reader of a file that may come from somebody else, or from a disk that failed."""
    npz, lines = _record_seeds()
    settings = {"config": _SETTINGS.config, "arguments": _SETTINGS.arguments}
    claims = json.dumps({"schema": 1, "settings": settings, "changed": _SETTINGS.changed}).encode()
    return {
        "prompt file": Target("p.qprompt", _prompt_seeds(), prompt_file.read_prompt_file, in_prompt_file),
        "checkpoint": Target("model.pth.tar-1", _checkpoint_seeds()[:3], _read_checkpoint, in_zip),
        "checkpoint, old format": Target("model.pth.tar-1", _checkpoint_seeds()[3:], _read_checkpoint),
        "CLIP weights": Target("w.pt", _checkpoint_seeds()[:1], _read_weights, in_zip),
        "CLIP weights, safetensors": Target("w.safetensors", [_safetensors()], _read_weights),
        "features": Target("k.features", _feature_seeds(), _read_features, in_features),
        "CoOp's pickle": Target("shot_1-seed_1.pkl", _pickles(), coop_pickle.read_records),
        "split": Target("split_zhou_X.json", [json.dumps(_SPLIT).encode()], _read_split, in_json),
        "few-shot draw": Target("draw.json", [_draw()], _read_draw, in_json),
        "image list": Target("list.in", _list_seeds(), _read_list, in_list),
        "annotations": Target("list.txt", list(_ANNOTATIONS.values()), _read_annotations),
        "config": Target("c.yaml", [_YAML], _read_config),
        "sweep": Target("s.yaml", [json.dumps(_SWEEP).encode()], lambda p: read_spec(str(p)), in_json),
        "tar": Target("a.tar", _archives(), _unpack, in_tar),
        "zip": Target("a.zip", [_zip()], _unpack, in_zip),
        "record": Target("r.npz", [npz], _record, in_zip),
        "record being written": Target("r.part", [lines], lambda p: _record(p, part=True), in_lines),
        "metrics.json": Target("metrics.json", _metrics(), _read_metrics, in_json),
        "config.json": Target("config.json", [claims], _claim, in_json),
        "image": Target("i.img", _pictures(), images.read_image),
    }  # fmt: skip


# --- the loop


def fuzz(name: str, target: Target, inputs: int, seed: int, folder: Path) -> collections.Counter[str]:
    """Counts of what became of `inputs` mutated files; AssertionError with the file for one that was mishandled."""
    counts: collections.Counter[str] = collections.Counter()
    random_ = random.Random(f"{name} {seed}")
    own = folder / "in"
    own.mkdir(parents=True)
    for number in range(inputs):
        data = target.mutate(random_.choice(target.seeds), target.seeds, random_)
        path = own / target.name
        path.write_bytes(data)
        (folder / "input").write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, 10)
        try:
            target.read(path)
            counts["read"] += 1
        except target.errors as error:
            assert not _asked_for_memory(error), f"{name}, input {number}: asked for memory: {error!r}"
            counts["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"{name}, input {number}: {type(error).__name__}: {error}") from error
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if len(os.listdir(own)) > 1:
            for left in own.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return counts


def _asked_for_memory(error: BaseException | None) -> bool:
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or "allocate memory" in text or "unable to allocate" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def _too_slow(*_: Any) -> None:
    raise TimeoutError("ten seconds of computing over one file")


def _run(name: str, target: Target, inputs: int, seed: int, folder: Path) -> None:
    """In a process of its own, with bounded memory."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGPROF, _too_slow)
    began, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        counts = fuzz(name, target, inputs, seed, folder)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    shown = ", ".join(f"{n:,} {what}" for what, n in sorted(counts.items()))
    print(f"{name}: {inputs:,} inputs, {shown}; {grown:.0f} MB more, {time.process_time() - began:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="mutated files for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="+", default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    activate()
    known, failed = targets(), []
    _defaults()
    for name in args.readers or known:
        folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        child = os.fork()
        if not child:
            code = 1
            try:
                _run(name, known[name], args.inputs, args.seed, folder)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            failed.append(name)
            print(f"FAILED {name} (exit {code}); its input: {folder / 'input'}", flush=True)
        else:
            shutil.rmtree(folder)
    print(f"{len(failed)} readers failed{': ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
