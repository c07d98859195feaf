"""Readers of a run's files: its config, its settings and metrics, the record of quantization, a sweep's yaml."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from fuzzing.formats import in_json, in_json_lines, in_zip
from fuzzing.target import Target
from qprompt.quantization import recorder
from qprompt.report import records
from qprompt.runs import config
from qprompt.runs.folder import claim
from qprompt.runs.identity import RunSettings
from qprompt.sweep.spec import read_spec
from qprompt.training.defaults import extend_cfg

YAML = b"""OPTIM:
  LR: 0.002
  NAME: "sgd"
INPUT:
  SIZE: (48, 48)
  TRANSFORMS: ["normalize"]
"""
SWEEP = {
    "protocol": "base2new", "datasets": ["tiny_world@0-2"], "trainers": {"QCoOp": {"default": "tiny", "4": "x"}},
    "shots": [1, 16], "seeds": "1-3", "settings": {"OPTIM": {"LR": 0.1}}, "variants": {"a": {"OPTIM.LR": 1}},
    "grid": {"TRAINER.QUANT.BITS": [1, 2]}, "load_epoch": "last",
}  # fmt: skip
METRICS = {
    "schema": 1, "mode": "eval", "trainer": "QCoOp", "dataset": "TinyWorld", "seed": 1, "shots": 4,
    "classes": "new", "backbone": "tiny", "results": {"accuracy": 50.0},
    "curve": [{"epoch": 1, "accuracy": 5.0}], "load_epoch": 3,
    "prompt": {"payload_bytes": 5}, "config": {"DATASET": {"DRAW": 0}}, "changed": {"SEED": 1}, "time_s": 1.0,
}  # fmt: skip
SETTINGS = RunSettings.of({"OPTIM": {"LR": 0.1}, "SEED": 1}, {"OPTIM": {"LR": 0.1}, "SEED": 2}, "train")


def targets() -> dict[str, Target]:
    record, part = _records()
    settings = {"config": SETTINGS.config, "arguments": SETTINGS.arguments}
    claimed = json.dumps({"schema": 1, "settings": settings, "changed": SETTINGS.changed}).encode()
    return {
        "config": Target("c.yaml", [YAML], _read_config),
        "sweep": Target("s.yaml", [json.dumps(SWEEP).encode()], lambda path: read_spec(str(path)), in_json),
        "record": Target("r.npz", [record], recorder.read, in_zip),
        "record being written": Target("r.part", [part], _resume_record, in_json_lines),
        "metrics.json": Target("metrics.json", [json.dumps(METRICS).encode()], records.read_run, in_json),
        "config.json": Target("config.json", [claimed], _claim, in_json),
    }


@functools.cache
def default_config() -> Any:
    """Return the default config, which takes long to build."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    extend_cfg(cfg)
    return cfg


def _read_config(path: Path) -> None:
    cfg = default_config()
    lr, name = cfg.OPTIM.LR, cfg.OPTIM.NAME
    try:
        config.merge_file(cfg, str(path))
    finally:
        cfg.OPTIM.LR, cfg.OPTIM.NAME = lr, name
    config.merge_options(cfg, ["OPTIM.NAME", path.read_text(encoding="utf-8", errors="replace")])


def _records() -> tuple[bytes, bytes]:
    """Contents of a finished record of quantization and of one that is being written."""
    with tempfile.TemporaryDirectory() as folder:
        record = recorder.Recorder(Path(folder, "r.npz"))
        for step in range(2):
            record._append(step, codebook={"ctx": [[0.0, 1.0]]})
            record._append(step, rows={"ctx": [0.0, 1.0, 0.1, 0.2, 3.0, 1.0]})
            record._append(step, histogram={"ctx": [[0.0, 1.0], [1] * 4]})
        lines = record.part.read_bytes()
        record.close()
        return Path(folder, "r.npz").read_bytes(), lines


def _resume_record(path: Path) -> None:
    resumed = recorder.Recorder(path.with_suffix(".npz"))
    resumed.part = path
    resumed._append(5, rows={"ctx": [0.0] * 6})
    resumed.close()


def _claim(path: Path) -> None:
    (path.parent / "prompt_learner").mkdir(exist_ok=True)  # without a checkpoint the record does not count
    (path.parent / "prompt_learner/model.pth.tar-1").touch()
    with claim(str(path.parent), SETTINGS):
        pass
