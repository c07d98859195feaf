"""Give every reader of files many damaged files: it has to read or refuse each of them.

  python tools/fuzz_readers.py --inputs 100000 --seed 0 [--readers "prompt file" ...]

A reader fails if it raises anything but UserError, crashes, computes for ten seconds over one file, writes a file
outside its folder, or asks for more than 512 MB of memory (a file of a few kB that makes its reader ask for more has a
large number in its header). The file that made it fail is kept, and its path is printed. The valid files are small, so
that most damage hits something that matters.
"""

import argparse
import collections
import contextlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import torch  # noqa: E402

from fuzzing import Target, targets  # noqa: E402
from fuzzing.run_files import default_config  # noqa: E402
from qprompt.engine import activate  # noqa: E402
from qprompt.errors import UserError  # noqa: E402

MEMORY = 512 * 2**20  # bytes
SECONDS = 10


def fuzz(name: str, target: Target, inputs: int, seed: int, folder: Path) -> collections.Counter[str]:
    """Give a reader `inputs` damaged files and count how many were read and refused.

    The current file is ``folder/input``. Raises AssertionError for a file that the reader mishandles.
    """
    counts: collections.Counter[str] = collections.Counter()
    random_ = random.Random(f"{name} {seed}")
    own = folder / "in"
    own.mkdir(parents=True)
    for number in range(inputs):
        data = target.damage(random_.choice(target.seeds), target.seeds, random_)
        path = own / target.name
        path.write_bytes(data)
        (folder / "input").write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            target.read(path)
            counts["read"] += 1
        except UserError as error:
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
    raise TimeoutError(f"{SECONDS} seconds of computing over one file")


def _run(name: str, target: Target, inputs: int, seed: int, folder: Path) -> None:
    """Limit this process's memory and fuzz."""
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


def _exit_code(name: str, target: Target, inputs: int, seed: int, folder: Path) -> int:
    """Run in a forked process, which may crash."""
    child = os.fork()
    if not child:
        code = 1
        try:
            _run(name, target, inputs, seed, folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="damaged files per reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="+", metavar="NAME", help="default: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    activate()
    known, failed = targets(), []
    if unknown := set(args.readers or ()) - known.keys():
        parser.error(f"no reader {', '.join(map(repr, unknown))}. Known: {', '.join(map(repr, known))}")
    default_config()
    for name in args.readers or known:
        folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        if code := _exit_code(name, known[name], args.inputs, args.seed, folder):
            failed.append(name)
            print(f"FAILED {name} (exit {code}); its input: {folder / 'input'}", flush=True)
        else:
            shutil.rmtree(folder)
    print(f"{len(failed)} readers failed{': ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
