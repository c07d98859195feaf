"""A small project for the tests of sweeps and scripts: configs and fake_train.py as train.py."""

import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent


def make_project(folder: Path) -> Path:
    """Write configs/ with three data sets and four trainers, and copy tests/fake_train.py to train.py."""
    for name in ("pets", "dtd", "world"):
        write(folder / f"configs/datasets/{name}.yaml", f"DATASET:\n  NAME: {name.title()}\n")
    for trainer in ("CoOp", "QCoOp", "MaPLe", "ZeroshotCLIP"):
        write(folder / f"configs/trainers/{trainer}/tiny.yaml", "OPTIM:\n  MAX_EPOCH: 7\n  LR: 0.002\n")
    write(folder / "configs/trainers/CoOp/short.yaml", "OPTIM:\n  MAX_EPOCH: 3\n")
    shutil.copy(HERE / "fake_train.py", folder / "train.py")
    return folder


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
