"""A plan on a cluster, through submitit: one element of an array job per training run and its evaluations.

An element does its runs one after the other and skips finished ones. So it resumes after it was preempted, timed out or
lost its node and was requeued: train.py resumes the unfinished run from its newest checkpoint. Scheduling and
requeueing are Slurm's job.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qprompt.errors import UserError
from qprompt.io.files import write_json
from qprompt.sweep.plan import Run
from qprompt.sweep.pool import describe
from qprompt.sweep.spec import Spec

# Slurm's default MaxArraySize is 1001.
_ARRAY_SIZE = 1000
# How long to wait for the end of a partition's GraceTime.
_PREEMPTION_GRACE_S = 900


class Element:
    """The function of an array element: does its runs; RuntimeError if one failed, so that Slurm shows FAILED."""

    def __init__(self, train: str):
        self.train = train
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, runs: Sequence[Run]) -> None:
        failed: dict[str, str] = {}
        for run in runs:
            if run.after in failed:
                failed[run.folder] = f"{run.label}: not started, {run.after} failed"
            elif run.finished() is None:
                code = self._train(run)
                if code or run.finished() is None:
                    failed[run.folder] = f"{run.label}: {describe(code)}"
                if code == -signal.SIGTERM:
                    # Preempted or cancelled. Slurm requeues a preempted element only if it ends the element itself:
                    # wait for that.
                    time.sleep(_PREEMPTION_GRACE_S)
                if code < 0:
                    break
        if failed:
            raise RuntimeError("\n".join(failed.values()))

    def _train(self, run: Run) -> int:
        print(f"=== {run.label}", flush=True)
        # Slurm warns every process of the step of a preemption; only submitit handles the signal.
        process = subprocess.Popen([sys.executable, self.train, *run.argv], preexec_fn=_ignore_warning)
        self._process = process
        # Popen.wait would hold a lock that `checkpoint` (called in a signal handler) needs.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        self._process = None
        return process.wait()

    def checkpoint(self, runs: Sequence[Run]) -> Any:
        """End the process and return the job to requeue; submitit calls this before it requeues an element."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            self._process.kill()
        return DelayedSubmission(Element(self.train), runs)


def _ignore_warning() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def chains(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs that depend on each other: a training run (unless it has finished) and its evaluations."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.after or run.folder, []).append(run)
    return list(found.values())


def submit(spec: Spec, runs: Sequence[Run], folder: Path, cluster: str, parallel: int | None = None) -> list[Any]:
    """Submit runs.

    Args:
        spec: The spec of the sweep.
        runs: Its runs that have not finished.
        folder: Folder of the sweep, for logs and the ids of the jobs.
        cluster: "slurm", or "local" for submitit's executor on this machine.
        parallel: At most so many elements at a time.

    Returns:
        The jobs of submitit.

    Raises:
        UserError: submitit is not installed, Slurm refused the job, or it is already in the queue.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("a sweep on Slurm needs submitit, which is not installed: pip install submitit") from None
    jobs_file = folder / "jobs.json"
    if cluster == "slurm" and (busy := _queued(jobs_file)):
        raise UserError(f"the sweep {spec.name} is already in the queue (job {', '.join(busy)}): wait, or scancel it.")
    todo = chains(runs)
    executor = submitit.AutoExecutor(folder=folder / "slurm", cluster=cluster)
    try:
        executor.update_parameters(**_parameters(spec, cluster, parallel))
        parts = [todo[i : i + _ARRAY_SIZE] for i in range(0, len(todo), _ARRAY_SIZE)]
        jobs = [job for part in parts for job in executor.map_array(Element(spec.train), part)]
    except (NameError, TypeError, ValueError) as error:
        raise UserError(f"'slurm' of the spec: {' '.join(str(error).split())}") from None
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"Slurm refused the job: {' '.join(str(error).split())}") from None
    arrays = sorted({job.job_id.partition("_")[0] for job in jobs})
    write_json(jobs_file, {"schema": 1, "cluster": cluster, "jobs": arrays})
    print(
        f"{spec.name}: submitted {len(runs)} runs as {len(jobs)} elements of job {', '.join(arrays)}. "
        f"Logs: {folder}/slurm. The same command later submits the runs that have not finished."
    )
    return jobs


def _parameters(spec: Spec, cluster: str, parallel: int | None) -> dict[str, Any]:
    """Parameters of submitit: its own ones as they are, all other keys of 'slurm' for sbatch."""
    shared = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node")
    found: dict[str, Any] = {"name": spec.name, "timeout_min": 240}
    if cluster == "slurm":
        found["slurm_additional_parameters"] = {"requeue": True}
        if parallel:
            found["slurm_array_parallelism"] = parallel
    for key, value in spec.slurm.items():
        if key in shared or key.startswith("slurm_"):
            found[key] = value
        elif cluster == "slurm":
            found[f"slurm_{key}"] = value
    return found


def _queued(jobs_file: Path) -> list[str]:
    """Job ids of an earlier submission that are still in the queue."""
    try:
        ids = json.loads(jobs_file.read_text(encoding="utf-8"))["jobs"]
    except (OSError, ValueError, KeyError):
        return []
    command = ["squeue", "--noheader", "--format=%A", f"--user={os.getuid()}"]
    try:
        queue = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []
    return sorted(set(ids) & set(queue))
