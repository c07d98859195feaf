"""Output folders of training runs: compare two runs, and check that every file is complete."""

import io
import json
from pathlib import Path
from typing import Any

import torch

from qprompt.prompt_files.format import read_prompt_file
from qprompt.quantization import recorder

UNFINISHED = (".tmp", ".part")
VARYING = ("finished", "time_s", "train_time_s", "peak_memory_bytes")  # metrics that differ between equal runs
OF_THE_START = ("OUTPUT_DIR", "ROOT", "NUM_WORKERS", "DATASET.ROOT", "DATALOADER.NUM_WORKERS")


def files(output: Path) -> dict[str, bytes]:
    """Return name -> content of the files under final names, except logs and TensorBoard's files."""
    found = {}
    for path in sorted(p for p in output.rglob("*") if p.is_file()):
        name = path.relative_to(output).as_posix()
        if not name.startswith((".lock", "log.txt", "tensorboard/")) and not path.name.endswith(UNFINISHED):
            found[name] = path.read_bytes()
    return found


def check_complete(output: Path) -> None:
    """Read every file under a final name with its own reader, which raises for a partly written one."""
    from dassl.utils import load_checkpoint

    for path in (p for p in output.rglob("*") if p.is_file()):
        if path.name.startswith("model") and not path.name.endswith(".tmp"):
            assert load_checkpoint(str(path))["state_dict"], path
        elif path.suffix == ".qprompt":
            read_prompt_file(path)
        elif path.suffix == ".npz":
            recorder.read(path)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.name == "checkpoint":
            assert (path.parent / path.read_text().strip()).is_file(), path


def check_equal(output: Path, expected: dict[str, bytes]) -> None:
    """Check that a finished run left the files of another, bit for bit, and nothing unfinished.

    metrics.json is compared without times, memory and paths.
    """
    found = files(output)
    names = sorted(found.keys() | expected.keys())
    wrong = [
        name
        for name in names
        if name not in found
        or name not in expected
        or _comparable(name, found[name]) != _comparable(name, expected[name])
    ]
    assert not wrong, f"{output} differs from the uninterrupted run in {wrong}"
    left = [path for path in output.rglob("*") if path.name.endswith(UNFINISHED)]
    assert not left, f"unfinished files: {left}"


def _comparable(name: str, data: bytes) -> object:
    if "/model" in name:  # a pickle depends on which equal objects are the same object
        return _plain(torch.load(io.BytesIO(data), weights_only=True))
    if name != "metrics.json":
        return data
    record = json.loads(data)
    for key in VARYING:
        record.pop(key, None)
    for node in (record["config"], record["config"]["DATASET"], record["config"]["DATALOADER"], record["changed"]):
        for key in OF_THE_START:
            node.pop(key, None)
    return record


def _plain(value: Any) -> Any:
    """A checkpoint's content with tensors as type, shape and bytes, so that == compares bits."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else repr(value)


def stage(output: Path) -> str:
    """Return how far a killed run came."""
    if not output.exists():
        return "importing"
    if any(output.rglob(".*.tmp")):
        return "writing a file"
    if (output / "metrics.json").exists():
        return "finished"
    if (output / "quantization.npz").exists():
        return "final test"
    return "training" if list(output.glob("*/checkpoint")) else "starting"
