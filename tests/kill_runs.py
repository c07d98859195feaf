"""Kill training runs at random moments, start them again, and compare what they leave with runs nobody touched.

  python tests/kill_runs.py --kills 60 --seed 0
  python tests/kill_runs.py --kills 0 --full-disks 20     (as root: it mounts small file systems)

A start is a real process and a kill a real SIGKILL: at a random time, or at a random one of the moments at which the
run opens, renames or removes a file in its folder. Most starts are forked from a process that has torch imported, to
spare its seconds; every tenth is ``python train.py``, and the untouched run always is. How many workers load data is
drawn anew for each start.

After a kill every file under a final name has to be whole. A finished run has to leave the files of the untouched one,
bit for bit (metrics.json but for times, memory and paths), and nothing else. On a disk that fills up at a random moment
it has to end with one line that says so, and to go on once there is room.
"""

import argparse
import collections
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

import train  # noqa: E402
from qprompt.engine import activate  # noqa: E402
from qprompt.prompt_files.format import read_prompt_file  # noqa: E402
from qprompt.quantization import recorder  # noqa: E402

FLIPS = ("INPUT.TRANSFORMS", "['random_resized_crop', 'random_flip', 'normalize']")
REFITS = ("TRAINER.QUANT.MIN_INTERVAL", "2", "TRAINER.QUANT.KL_THRESHOLD", "0")
SCENARIOS = {
    "QCoOp": ("QCoOp", ("OPTIM.MAX_EPOCH", "6", *REFITS, *FLIPS)),
    "QCoOp, best_val": ("QCoOp", ("OPTIM.MAX_EPOCH", "5", "TEST.FINAL_MODEL", "best_val", *REFITS)),
    "QCoOp, ptq": ("QCoOp", ("OPTIM.MAX_EPOCH", "4", "TRAINER.QUANT.MODE", "ptq")),
    "QMaPLe": ("QMaPLe", ("OPTIM.MAX_EPOCH", "3", "DATALOADER.TRAIN_X.BATCH_SIZE", "8", *REFITS)),
}
VARYING = ("finished", "time_s", "train_time_s", "peak_memory_bytes")


def arguments(scenario: str, root: Path, output: Path, workers: int = 0) -> list[str]:
    """The command line of a run on the embedded world: seconds long, a checkpoint each epoch."""
    trainer, options = SCENARIOS[scenario]
    return [
        *("--trainer", trainer, "--root", str(root), "--output-dir", str(output), "--seed", "1", "--skip-finished"),
        *("--dataset-config-file", str(HERE / "configs/datasets/tiny_world.yaml")),
        *("--config-file", str(HERE / f"configs/trainers/{trainer}/tiny.yaml")),
        *("DATASET.NUM_SHOTS", "2", "DATASET.SUBSAMPLE_CLASSES", "base", "DATALOADER.NUM_WORKERS", str(workers)),
        *("DATALOADER.TRAIN_X.BATCH_SIZE", "16", "TRAIN.CHECKPOINT_FREQ", "1", *options),
    ]


class Start:
    """One start of a run as a process of its own, which logs to ``output.log``."""

    def __init__(self, argv: list[str], output: Path, fresh: bool = False, die_at: int = 0):
        self.began = time.monotonic()
        log = open(f"{output}.log", "ab")  # noqa: SIM115 (the child's)
        if fresh:
            command = [sys.executable, str(HERE / "train.py"), *argv]
            self.pid = subprocess.Popen(command, stdout=log, stderr=log, cwd=HERE, env=os.environ).pid
        else:
            self.pid = os.fork()
            if not self.pid:
                _child(argv, output, log.fileno(), die_at)
        log.close()

    def wait(self, seconds: float = 600.0) -> int | None:
        """The exit code, negative for a signal; None if it is still running after `seconds`."""
        while time.monotonic() - self.began < seconds:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _child(argv: list[str], output: Path, log: int, die_at: int) -> None:
    os.dup2(log, 1)
    os.dup2(log, 2)
    seen = [0]

    def hook(event: str, args: tuple) -> None:
        if event in ("open", "os.rename", "os.remove", "os.chmod", "os.mkdir") and str(output) in str(args[:2]):
            seen[0] += 1
            if seen[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    code = 1
    try:
        code = train.main(argv)
        Path(f"{output}.events").write_text(str(seen[0]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def files(output: Path) -> dict[str, bytes]:
    """What a run left under final names, but for logs and TensorBoard's files."""
    found = {}
    for path in sorted(p for p in output.rglob("*") if p.is_file()):
        name = path.relative_to(output).as_posix()
        if not name.startswith((".lock", "log.txt", "tensorboard/")) and not path.name.endswith((".tmp", ".part")):
            found[name] = path.read_bytes()
    return found


def check_whole(output: Path) -> None:
    """Read every file under a final name with its own reader: each raises on a half-written one."""
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


def difference(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Names of the files that differ; metrics.json is compared without what no two runs share."""

    def comparable(name: str, data: bytes) -> object:
        if "/model" in name:  # a pickle says twice what is two objects and once what is one
            return _plain(torch.load(io.BytesIO(data), weights_only=True))
        if name != "metrics.json":
            return data
        record = json.loads(data)
        for key in VARYING:
            record.pop(key, None)
        for node in (record["config"], record["config"]["DATASET"], record["config"]["DATALOADER"], record["changed"]):
            for key in ("OUTPUT_DIR", "ROOT", "NUM_WORKERS", "DATASET.ROOT", "DATALOADER.NUM_WORKERS"):
                node.pop(key, None)
        return record

    names = sorted(one.keys() | other.keys())
    return [n for n in names if n not in one or n not in other or comparable(n, one[n]) != comparable(n, other[n])]


def _plain(value: Any) -> Any:
    """A checkpoint's content with tensors as type, shape and bytes, so that == compares bits."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else repr(value)


def state(output: Path) -> str:
    """How far a killed run had come, in a word or two."""
    if any(output.rglob(".*.tmp")):
        return "writing a file"
    if (output / "metrics.json").exists():
        return "finished"
    if (output / "quantization.npz").exists():
        return "testing at the end"
    return "training" if list(output.glob("*/checkpoint")) else "starting"


class Killer:
    """Runs of one scenario, killed until they finish."""

    def __init__(self, scenario: str, folder: Path, random_: random.Random):
        self.scenario, self.folder, self.random = scenario, folder, random_
        self.moments: collections.Counter[str] = collections.Counter()
        self.finished = self.starts = 0
        folder.mkdir(parents=True)
        self.root = folder / "data"
        untouched = folder / "untouched"
        code = Start(arguments(scenario, self.root, untouched), untouched, fresh=True).wait()
        assert code == 0, f"the untouched run ended with {code}: {untouched}.log"
        self.expected = files(untouched)
        forked = folder / "forked"
        start = Start(arguments(scenario, self.root, forked), forked)
        assert start.wait() == 0
        self.seconds, self.events = time.monotonic() - start.began, int(Path(f"{forked}.events").read_text())
        assert not difference(files(forked), self.expected), difference(files(forked), self.expected)

    def round(self, kills: int) -> int:
        """One run: killed up to `kills` times, then left to finish and compared. Returns the kills it survived."""
        output = self.folder / f"run-{self.finished}"
        # every third run draws its data itself, and may be killed over it
        root = output.with_suffix(".data") if self.finished % 3 == 2 else self.root
        survived = 0
        while survived < kills:
            self.starts += 1
            fresh, by_event = self.starts % 10 == 0, self.random.random() < 0.5
            die_at = self.random.randint(1, self.events) if by_event and not fresh else 0
            argv = arguments(self.scenario, root, output, self.random.choice([0, 0, 1, 2]))
            start = Start(argv, output, fresh, die_at)
            limit = 600 if die_at else self.random.uniform(0, self.seconds * (4 if fresh else 1.1))
            code = start.wait(limit)
            if code is None:
                start.kill()
            elif code != -signal.SIGKILL:
                assert code == 0, f"{output}.log: ended with {code}: {_last_line(output)}"
                break
            survived += 1
            self.moments["importing" if not output.exists() else state(output)] += 1
            check_whole(output)
        code = Start(arguments(self.scenario, root, output), output).wait()
        assert code == 0, f"{output}.log: ended with {code}: {_last_line(output)}"
        check_whole(output)
        wrong = difference(files(output), self.expected)
        assert not wrong, f"{output} differs from the untouched run in {wrong}"
        left = [p for p in output.rglob("*") if p.name.endswith((".tmp", ".part"))]
        assert not left, f"left over: {left}"
        self.finished += 1
        return survived

    def fill_disk(self) -> None:
        """One run on a file system that is too small for it, which grows after that."""
        output = self.folder / f"disk-{self.finished}"
        output.mkdir()
        needed = sum(map(len, self.expected.values())) // 1024
        mount = ["mount", "-t", "tmpfs", "tmpfs", str(output), "-o"]
        subprocess.run([*mount, f"size={self.random.randint(4, needed)}k"], check=True)
        try:
            argv = arguments(self.scenario, self.root, output)
            code, line = Start(argv, output).wait(), _last_line(output)
            assert code == 2 and "No space left on device" in line, f"{output}.log: ended with {code}: {line}"
            assert "Traceback" not in Path(f"{output}.log").read_text(), f"{output}.log"
            check_whole(output)
            subprocess.run([*mount, "remount,size=64m"], check=True)
            code = Start(argv, output).wait()
            assert code == 0, f"{output}.log: ended with {code}: {_last_line(output)}"
            assert not difference(files(output), self.expected), difference(files(output), self.expected)
            self.finished += 1
        finally:
            subprocess.run(["umount", str(output)], check=True)


def _last_line(output: Path) -> str:
    return Path(f"{output}.log").read_text(errors="replace").rstrip().rpartition("\n")[2]


def prepare() -> None:
    """Import all that a run imports, so that a forked one begins with its own work."""
    import torch.utils.tensorboard  # noqa: F401

    torch.set_num_threads(1)
    activate()
    train.import_all("datasets")
    train.import_all("trainers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="how many kills to survive, in all")
    parser.add_argument("--full-disks", type=int, default=0, help="how many disks to fill up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS))
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    prepare()
    random_ = random.Random(args.seed)
    folder = tempfile.mkdtemp()  # stays where a check fails
    killers = [Killer(name, Path(folder, str(i)), random_) for i, name in enumerate(args.scenarios)]
    survived = 0
    while survived < args.kills:
        for killer in killers:
            survived += killer.round(random_.randint(2, 8))
            print(f"{survived} kills survived, {sum(k.finished for k in killers)} runs equal", flush=True)
    for number in range(args.full_disks):
        killers[number % len(killers)].fill_disk()
        print(f"{number + 1} full disks survived", flush=True)
    shutil.rmtree(folder)
    for killer in killers:
        moments = ", ".join(f"{n} {moment}" for moment, n in killer.moments.most_common())
        print(f"{killer.scenario}: {sum(killer.moments.values())} kills in {killer.finished} runs ({moments})")


if __name__ == "__main__":
    main()
