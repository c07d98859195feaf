"""Training runs on the embedded world as processes: seconds long, with a checkpoint per epoch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.utils.tensorboard  # noqa: F401  (what a run imports later)

import train
from qprompt.engine import activate
from qprompt.training.project import register_project

ROOT = Path(train.__file__).resolve().parent
FLIPS = ("INPUT.TRANSFORMS", "['random_resized_crop', 'random_flip', 'normalize']")
REFITS = ("TRAINER.QUANT.MIN_INTERVAL", "2", "TRAINER.QUANT.KL_THRESHOLD", "0")
SCENARIOS = {
    "QCoOp": ("QCoOp", ("OPTIM.MAX_EPOCH", "6", *REFITS, *FLIPS)),
    "QCoOp, best_val": ("QCoOp", ("OPTIM.MAX_EPOCH", "5", "TEST.FINAL_MODEL", "best_val", *REFITS)),
    "QCoOp, ptq": ("QCoOp", ("OPTIM.MAX_EPOCH", "4", "TRAINER.QUANT.MODE", "ptq")),
    "QMaPLe": ("QMaPLe", ("OPTIM.MAX_EPOCH", "3", "DATALOADER.TRAIN_X.BATCH_SIZE", "8", *REFITS)),
}
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.chmod", "os.mkdir")


def arguments(scenario: str, root: Path, output: Path, workers: int = 0) -> list[str]:
    """Return the command line of a run."""
    trainer, options = SCENARIOS[scenario]
    return [
        *("--trainer", trainer, "--root", str(root), "--output-dir", str(output), "--seed", "1", "--skip-finished"),
        *("--dataset-config-file", str(ROOT / "configs/datasets/tiny_world.yaml")),
        *("--config-file", str(ROOT / f"configs/trainers/{trainer}/tiny.yaml")),
        *("DATASET.NUM_SHOTS", "2", "DATASET.SUBSAMPLE_CLASSES", "base", "DATALOADER.NUM_WORKERS", str(workers)),
        *("DATALOADER.TRAIN_X.BATCH_SIZE", "16", "TRAIN.CHECKPOINT_FREQ", "1", *options),
    ]


def prepare() -> None:
    """Import everything that a run imports, so that a forked run starts with its own work."""
    torch.set_num_threads(1)
    activate()
    register_project(train.HERE)


class Process:
    """A run in a process that logs to ``<output>.log``.

    Args:
        argv: Arguments of train.py.
        output: The run's output folder.
        fresh: Start ``python train.py``; else fork this process (see `prepare`).
        die_at: Kill the forked process at this file event in its output folder, counted from 1; 0: never.
    """

    def __init__(self, argv: list[str], output: Path, fresh: bool = False, die_at: int = 0):
        self.began = time.monotonic()
        self.log = Path(f"{output}.log")
        with open(self.log, "ab") as log:
            if fresh:
                command = [sys.executable, str(ROOT / "train.py"), *argv]
                self.pid = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=os.environ).pid
            else:
                self.pid = os.fork()
                if not self.pid:
                    _run(argv, output, log.fileno(), die_at)

    def wait(self, seconds: float = 600.0) -> int | None:
        """Return the exit code, negative for a signal, or None if the run takes longer than `seconds`."""
        while time.monotonic() - self.began < seconds:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def finish(self, expected: int = 0) -> str:
        """Wait, check the exit code and return the last line of the log."""
        code, line = self.wait(), self.last_line()
        assert code == expected, f"{self.log}: ended with {code}: {line}"
        return line

    def last_line(self) -> str:
        return self.log.read_text(errors="replace").rstrip().rpartition("\n")[2]


def _run(argv: list[str], output: Path, log: int, die_at: int) -> None:
    """Run train.py in this (forked) process, count its file events in ``<output>.events``, and exit."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    events = 0

    def count(event: str, args: tuple) -> None:
        nonlocal events
        if event in FILE_EVENTS and str(output) in str(args[:2]):
            events += 1
            if events == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    code = 1
    try:
        code = train.main(argv)
        Path(f"{output}.events").write_text(str(events))
    finally:
        sys.stdout.flush()
        os._exit(code)
