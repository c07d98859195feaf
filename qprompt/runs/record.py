"""The record of a run: which one lives in a folder, and ``metrics.json`` once it has finished.

metrics.json is the only interface between runs and what reads them (sweeps, reports): nothing scrapes logs.
"""

import contextlib
import fcntl
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from qprompt import __version__
from qprompt.data.items import Item, Split, split_hash
from qprompt.errors import AlreadyFinished, UserError
from qprompt.io import files, nested
from qprompt.io.files import remove_unfinished, write_json
from qprompt.runs import config

SCHEMA = 1
METRICS = "metrics.json"
CONFIG = "config.json"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`; UserError when it is broken."""
    try:
        data = files.read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}). Delete it if it is a leftover.") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object. Delete it if it is a leftover.")
    return data


@contextlib.contextmanager
def claim(output_dir: str, settings: dict[str, Any], defaults: dict[str, Any] | None = None) -> Iterator[None]:
    """Hold `output_dir` for the run with these settings; `defaults`: those of a run that sets nothing (`run_settings`).

    Refused with UserError: a folder whose run is finished (AlreadyFinished when it is this run), one where another
    run lives, and one that holds a run with other settings. An unfinished run with the same settings is taken up again.
    The lock is the operating system's: it ends with its process, however that ends.
    """
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+b")  # noqa: SIM115 (held until the run ends)
    except OSError as error:
        raise UserError(f"cannot write to --output-dir {output_dir}: {error.strerror}.") from None
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: workers that are forked would hold it too
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"another run is writing to {output_dir}: wait for it or choose another --output-dir."
            ) from None
        done = read_json(folder / METRICS) if (folder / METRICS).exists() else None
        record = folder / CONFIG
        if record.exists():
            changed = _changed(settings, record, defaults or {})
            if changed:
                shown = "; ".join(f"{k}: {theirs!r} there, {ours!r} now" for k, (ours, theirs) in changed.items())
                state = "a finished" if done else "an unfinished"
                raise UserError(
                    f"{output_dir} holds {state} run with other settings ({shown}): "
                    "use the same settings, another --output-dir, or delete that folder."
                )
        if done is not None:
            got = (done.get("results") or {}).get("accuracy")
            refusal = AlreadyFinished if record.exists() else UserError
            raise refusal(
                f"{output_dir} holds a finished run ({done.get('trainer')} on {done.get('dataset')}, "
                f"seed {done.get('seed')}, accuracy {got}): choose another --output-dir or delete that folder."
            )
        for part in (folder, *folder.glob("*/")):
            if part == folder or not (part / ".lock").exists():  # another run's folder may lie in this one
                remove_unfinished(part)
        if not record.exists():
            mine = {"schema": SCHEMA, "qprompt": __version__, "settings": settings}
            write_json(record, {**mine, "changed": _of_default(settings, defaults or {})})
        yield


def _of_default(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    changed = nested.difference(settings.get("config", {}), defaults.get("config", {}))
    return {key: ours for key, (ours, _) in changed.items()}


def _changed(settings: dict[str, Any], record: Path, defaults: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys by which this run is another than the recorded one, each with (ours, theirs).

    The record may be of another version. A key that it does not know had its default, in effect; one that is gone
    counts only if it was set.
    """
    saved = read_json(record)
    if saved.get("schema") != SCHEMA or not isinstance(saved.get("settings"), dict):
        raise UserError(
            f"{record} has schema {saved.get('schema')!r}, this version of qprompt reads {SCHEMA}: "
            "go on with the version that wrote it, or choose another --output-dir."
        )
    theirs = nested.flatten(saved["settings"])
    was_set = saved.get("changed")
    was_set = was_set if isinstance(was_set, dict) else theirs
    gone = {k for k in theirs.keys() - nested.flatten(settings).keys() if k.removeprefix("config.") not in was_set}
    theirs = {**nested.flatten({"config": defaults.get("config", {})}), **theirs}
    found = nested.difference(settings, {key: value for key, value in theirs.items() if key not in gone})
    return {key: values for key, values in found.items() if not config.alike(key.removeprefix("config."), *values)}


def run_settings(cfg_dict: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """What makes two runs the same run: every config key that can change a result, and the mode of the run."""
    flat = {k: v for k, v in nested.flatten(cfg_dict).items() if k not in config.WITHOUT_EFFECT}
    return {"config": flat, "arguments": arguments}


class Evaluations:
    """Every evaluation that a trainer makes, kept as plain numbers while Dassl prints them.

    Wraps ``trainer.evaluator.evaluate``: works with the real and with the bundled engine.
    """

    def __init__(self, trainer: Any):
        self.last: dict[str, Any] = {}
        evaluate = trainer.evaluator.evaluate

        def recorded() -> dict[str, float]:
            results = evaluate()
            self.last = {name: float(value) for name, value in results.items()}
            for name in ("correct", "total"):
                count = getattr(trainer.evaluator, f"_{name}", None)
                if count is not None:
                    self.last[name] = int(count)
            return results

        trainer.evaluator.evaluate = recorded


def dataset_hash(dataset: Any, root: str) -> str:
    """Return the `split_hash` of a Dassl data set, with paths relative to `root`."""
    base = os.path.abspath(root)

    def items(part: str) -> list[Item]:
        return [
            Item(os.path.relpath(os.path.abspath(item.impath), base), item.label, item.classname)
            for item in getattr(dataset, part, None) or ()
        ]

    parts = ("train_x", "val", "test")
    return split_hash(Split(*map(items, parts)), parts)


def versions(engine: str) -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"qprompt": __version__, "python": platform.python_version(), "engine": engine}
    for name in ("torch", "torchvision", "numpy", "pillow", "clip-anytorch", "openai-clip", "clip"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def hardware(device: str) -> dict[str, Any]:
    """The machine in a few words."""
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _cpu_name() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def peak_memory_bytes(device: str) -> dict[str, int]:
    """Peak resident memory of this process and, on a GPU, the peak that torch allocated there."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    found = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.startswith("cuda"):
        found["device"] = torch.cuda.max_memory_allocated(device)
    return found


def finish(
    output_dir: str, trainer: Any, mode: str, results: dict[str, Any], started: float, engine: str, **more: Any
) -> Path:
    """Write metrics.json: the sign that the run in `output_dir` is finished. `started`: time.monotonic() then."""
    cfg = trainer.cfg
    full = nested.to_dict(cfg)
    defaults = nested.to_dict(more.pop("defaults"))
    device = str(trainer.device)
    record = {
        "schema": SCHEMA,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "mode": mode,
        "trainer": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "seed": cfg.SEED,
        "shots": cfg.DATASET.NUM_SHOTS,
        "classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "results": results,
        **more,
        "time_s": round(time.monotonic() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(device),
        "split_sha256": dataset_hash(trainer.dm.dataset, cfg.DATASET.ROOT),
        "versions": versions(engine),
        "hardware": hardware(device),
        "changed": {k: ours for k, (ours, _) in nested.difference(full, defaults).items()},
        "config": full,
    }
    path = Path(output_dir) / METRICS
    write_json(path, record)
    return path
