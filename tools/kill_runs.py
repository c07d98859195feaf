"""Kill training runs at random moments, resume them, and compare their results with those of uninterrupted runs.

  python tools/kill_runs.py --kills 60 --seed 0
  python tools/kill_runs.py --kills 0 --full-disks 20     (as root: it mounts small file systems)

Runs are real processes and kills are real SIGKILLs: at a random time, or at a random one of the moments at which the
run opens, renames or removes a file in its folder. Most runs are forked from a process that has imported torch, which
saves its seconds; every tenth, and the uninterrupted one, is ``python train.py``. Each start draws a new number of
data-loading workers.

After a kill, every file under a final name has to be complete. A finished run has to leave the files of the
uninterrupted run, bit for bit (metrics.json except for times, memory and paths), and no others. On a disk that fills up
at a random moment, a run has to end with one line that says so, and to resume when there is space.
"""

import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from run_folders import check_complete, check_equal, files, stage  # noqa: E402
from training_runs import SCENARIOS, Process, arguments, prepare  # noqa: E402


class Killer:
    """Runs of one scenario that are killed until they finish."""

    def __init__(self, scenario: str, folder: Path, random_: random.Random):
        self.scenario, self.folder, self.random = scenario, folder, random_
        self.stages: collections.Counter[str] = collections.Counter()  # kills at each stage
        self.finished = self.starts = 0
        folder.mkdir(parents=True)
        self.root = folder / "data"
        uninterrupted = folder / "uninterrupted"
        Process(arguments(scenario, self.root, uninterrupted), uninterrupted, fresh=True).finish()
        self.expected = files(uninterrupted)
        forked = folder / "forked"
        process = Process(arguments(scenario, self.root, forked), forked)
        process.finish()
        self.seconds, self.events = time.monotonic() - process.began, int(Path(f"{forked}.events").read_text())
        check_equal(forked, self.expected)

    def round(self, kills: int) -> int:
        """Kill a run up to `kills` times, let it finish and check it. Return the number of kills."""
        output = self.folder / f"run-{self.finished}"
        # Every third run generates its data, and may be killed while it does.
        root = output.with_suffix(".data") if self.finished % 3 == 2 else self.root
        killed = 0
        while killed < kills and self._killed(root, output):
            killed += 1
            self.stages[stage(output)] += 1
            check_complete(output)
        Process(arguments(self.scenario, root, output), output).finish()
        check_complete(output)
        check_equal(output, self.expected)
        self.finished += 1
        return killed

    def _killed(self, root: Path, output: Path) -> bool:
        """Start the run and return whether it was killed before it finished."""
        self.starts += 1
        fresh, by_event = self.starts % 10 == 0, self.random.random() < 0.5
        die_at = self.random.randint(1, self.events) if by_event and not fresh else 0
        argv = arguments(self.scenario, root, output, self.random.choice([0, 0, 1, 2]))
        process = Process(argv, output, fresh, die_at)
        limit = 600 if die_at else self.random.uniform(0, self.seconds * (4 if fresh else 1.1))
        code = process.wait(limit)
        if code is None:
            process.kill()
        elif code != -signal.SIGKILL:
            assert code == 0, f"{process.log}: ended with {code}: {process.last_line()}"
            return False
        return True

    def fill_disk(self) -> None:
        """Run on a file system that is too small, enlarge it, and resume."""
        output = self.folder / f"disk-{self.finished}"
        output.mkdir()
        needed = sum(map(len, self.expected.values())) // 1024
        mount = ["mount", "-t", "tmpfs", "tmpfs", str(output), "-o"]
        subprocess.run([*mount, f"size={self.random.randint(4, needed)}k"], check=True)
        try:
            argv = arguments(self.scenario, self.root, output)
            process = Process(argv, output)
            line = process.finish(expected=2)
            assert "No space left on device" in line, f"{process.log}: {line}"
            assert "Traceback" not in process.log.read_text(), process.log
            check_complete(output)
            subprocess.run([*mount, "remount,size=64m"], check=True)
            Process(argv, output).finish()
            check_equal(output, self.expected)
            self.finished += 1
        finally:
            subprocess.run(["umount", str(output)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="total number of kills (default: %(default)s)")
    parser.add_argument("--full-disks", type=int, default=0, help="number of disks to fill (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS))
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    prepare()
    random_ = random.Random(args.seed)
    folder = tempfile.mkdtemp()  # is kept when a check fails
    killers = [Killer(name, Path(folder, str(i)), random_) for i, name in enumerate(args.scenarios)]
    killed = 0
    while killed < args.kills:
        for killer in killers:
            killed += killer.round(random_.randint(2, 8))
            print(f"{killed} kills, {sum(k.finished for k in killers)} runs equal", flush=True)
    for number in range(args.full_disks):
        killers[number % len(killers)].fill_disk()
        print(f"{number + 1} full disks", flush=True)
    shutil.rmtree(folder)
    for killer in killers:
        stages = ", ".join(f"{n} {name}" for name, n in killer.stages.most_common())
        print(f"{killer.scenario}: {sum(killer.stages.values())} kills in {killer.finished} runs ({stages})")


if __name__ == "__main__":
    main()
