"""The same plan on a cluster, through submitit: an element of an array job for each training run and what needs it.

An element does its runs one after the other and skips those that are finished. So when it is preempted, times out
or loses its node and is put back into the queue, it goes on where it was: finished runs are skipped, and train.py
takes the one that was under way up at its newest checkpoint. Scheduling, queues and requeueing are Slurm's.
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

# Slurm's MaxArraySize is 1001 unless it was raised.
_ARRAY_SIZE = 1000
# The longest GraceTime of a partition that is waited for.
_PREEMPTION_GRACE_S = 900


class Element:
    """What one array element calls, with its runs. RuntimeError when one failed, so that Slurm shows FAILED."""

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
                    # Preempted or cancelled. Ending now would take a preempted element out of the queue for good:
                    # wait until Slurm ends it, which puts it back.
                    time.sleep(_PREEMPTION_GRACE_S)
                if code < 0:
                    break
        if failed:
            raise RuntimeError("\n".join(failed.values()))

    def _train(self, run: Run) -> int:
        print(f"=== {run.label}", flush=True)
        # Slurm sends the warning of a preemption to every process of the step; it is for submitit alone.
        process = subprocess.Popen([sys.executable, self.train, *run.argv], preexec_fn=_ignore_warning)
        self._process = process
        # Popen.wait would hold its lock while it waits, and `checkpoint` (in a signal handler) wait for that lock.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        self._process = None
        return process.wait()

    def checkpoint(self, runs: Sequence[Run]) -> Any:
        """Called by submitit before the element goes back into the queue: end the process, start over later."""
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
    """Runs that must follow one another, together: a training run (if it is still to do) and its evaluations."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.after or run.folder, []).append(run)
    return list(found.values())


def submit(spec: Spec, runs: Sequence[Run], folder: Path, cluster: str, parallel: int | None = None) -> list[Any]:
    """Submit `runs`; returns submitit's jobs. `cluster`: slurm, or local (submitit's executor on this machine)."""
    try:
        import submitit
    except ImportError:
        raise UserError("a sweep on Slurm needs submitit, which is not installed: pip install submitit") from None
    jobs_file = folder / "jobs.json"
    if cluster == "slurm" and (busy := _queued(jobs_file)):
        raise UserError(f"the sweep {spec.name} is in the queue already (job {', '.join(busy)}): wait, or scancel it.")
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
        f"Logs: {folder}/slurm. The same command later says what is finished and submits what is not."
    )
    return jobs


def _parameters(spec: Spec, cluster: str, parallel: int | None) -> dict[str, Any]:
    """submitit's parameters. Keys of 'slurm' that it shares between clusters go as they are, the rest is sbatch's."""
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
    """Job ids of an earlier submission that Slurm still has."""
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
