"""The command ``qprompt sweep``: check everything, then run what has not finished."""

import argparse
import contextlib
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from qprompt.errors import UserError
from qprompt.io.durations import clock
from qprompt.io.files import write_json
from qprompt.io.locks import Locked, hold
from qprompt.sweep.plan import Run, plan
from qprompt.sweep.pool import Failure, Pool, describe
from qprompt.sweep.progress import Progress
from qprompt.sweep.slots import local_slots
from qprompt.sweep.spec import Spec


def run(args: argparse.Namespace, spec: Spec) -> int:
    """Run ``qprompt sweep``; return the exit code.

    Raises:
        UserError: The spec or the command line is wrong; nothing was started.
    """
    if not Path(spec.train).is_file():
        raise UserError(f"no {spec.train}, which the spec names as the program to run: type train=FILE.")
    runs = plan(spec)
    left = [r for r in runs if r.finished() is None]
    if args.dry_run:
        for r in runs:
            print(f"{'' if r in left else '# finished: '}python {spec.train} {shlex.join(r.argv)}")
        return 0
    if args.cluster:
        from qprompt.sweep.slurm import submit

        if left:
            submit(spec, left, Path(spec.output) / "sweeps" / spec.name, args.cluster, args.jobs)
        else:
            print(f"{spec.name}: all {len(runs)} runs are finished.")
        return 0
    return run_here(spec, runs, args.jobs, args.gpus, args.retry)


def run_here(spec: Spec, runs: Sequence[Run], jobs: int | None, gpus: str | None, retry: bool) -> int:
    """Run what has not finished on this machine; return the exit code (0: all finished, 1: failures, 130: interrupted).

    Args:
        spec: The spec of the sweep: its name, output folder and train.py.
        runs: Its runs, each after the one that it depends on.
        jobs: Number of runs in parallel; None: one per GPU, else one per core.
        gpus: See `local_slots`.
        retry: Start each failed run a second time.

    Raises:
        UserError: The sweep is already running, or a folder holds a run with other settings.
    """
    folder = Path(spec.output) / "sweeps" / spec.name
    records = {r.folder: done for r in runs if (done := r.finished()) is not None}
    left = [r for r in runs if r.folder not in records]
    with _only_one(folder, spec):
        slots = local_slots(jobs, gpus)
        progress = Progress(left, len(slots), folder / "sweep.log")
        for r in runs:
            if r.folder in records:
                progress.learn(r, records[r.folder])
        where = f"{len(slots)} at a time on " + (
            "the GPUs" if slots[0].gpu else f"the CPU, {slots[0].threads} thread(s) each"
        )
        progress.note(f"{spec.name}: {len(runs)} runs, {len(records)} already finished, {where}. Logs: {folder}/logs")
        pool = Pool(left, slots, spec.train, folder / "logs", progress, retry)
        try:
            failures = pool.execute()
        except KeyboardInterrupt:
            progress.note("interrupted: all runs were stopped. The same command resumes the sweep.")
            return 130
        finally:
            progress.close()
        _write_record(folder, spec, runs, failures)
        return _summary(progress, runs, failures)


@contextlib.contextmanager
def _only_one(folder: Path, spec: Spec) -> Iterator[None]:
    """Refuse to run next to another sweep over the same runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(hold(folder / ".lock"))
        except Locked:
            raise UserError(f"the sweep {spec.name} is already running (lock in {folder}): wait for it.") from None
        yield


def _write_record(folder: Path, spec: Spec, runs: Sequence[Run], failures: list[Failure]) -> None:
    failed = {f.run.folder: f for f in failures}
    write_json(
        folder / "sweep.json",
        {
            "schema": 1,
            "name": spec.name,
            "protocol": spec.protocol,
            "runs": [
                {
                    "folder": r.folder,
                    "label": r.label,
                    "command": shlex.join(["python", spec.train, *r.argv]),
                    "state": "failed" if r.folder in failed else "finished",
                    "log": str(failed[r.folder].log) if r.folder in failed else None,
                }
                for r in runs
            ],
        },
    )


def _summary(progress: Progress, runs: Sequence[Run], failures: list[Failure]) -> int:
    took = clock(time.monotonic() - progress.started)
    if not failures:
        progress.note(f"all {len(runs)} runs are finished ({took}).")
        return 0
    for failure in failures:
        how = describe(failure.code) if failure.log else "not started"
        progress.note(f"\n{failure.run.label}: {how}" + (f", log {failure.log}" if failure.log else ""))
        for line in failure.tail:
            progress.note(f"    {line}")
    progress.note(f"\n{len(failures)} of {len(runs)} runs failed ({took}). The same command runs them again.")
    return 1
