"""Experiment trackers (``train.py --log-to wandb|mlflow``): the scalars that TensorBoard gets, settings and results."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from qprompt.errors import UserError
from qprompt.io.nested import flatten, to_dict

PROJECT = "qprompt"  # unless the tracker's own environment variable names another


class _Tracker(Protocol):
    def scalar(self, name: str, value: float, step: int | None) -> None: ...
    def close(self, results: Mapping[str, float], failed: bool) -> None: ...


class _Wandb:
    """Weights & Biases. WANDB_PROJECT, WANDB_MODE=offline and its other environment variables hold."""

    def __init__(self, name: str, config: Mapping[str, Any], folder: str):
        import wandb

        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self.run = wandb.init(project=project, name=name, config=dict(config), dir=folder)
        # Its own steps only increase, but ours count batches in train/ and epochs elsewhere.
        for group in ("train", "val", "test"):
            self.run.define_metric(f"{group}/*", step_metric=f"{group}/step")

    def scalar(self, name: str, value: float, step: int | None) -> None:
        group = name.partition("/")[0]
        self.run.log({name: value} if step is None else {name: value, f"{group}/step": step})

    def close(self, results: Mapping[str, float], failed: bool) -> None:
        self.run.summary.update({f"results/{key}": value for key, value in results.items()})
        self.run.finish(exit_code=int(failed))


class _Mlflow:
    """MLflow. MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and its other environment variables hold."""

    def __init__(self, name: str, config: Mapping[str, Any], folder: str):
        import mlflow

        self.mlflow = mlflow
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
            mlflow.set_experiment(PROJECT)
        mlflow.start_run(run_name=name)
        settings = list(config.items())
        for start in range(0, len(settings), 100):  # a server accepts no more at once
            mlflow.log_params(dict(settings[start : start + 100]))

    def scalar(self, name: str, value: float, step: int | None) -> None:
        self.mlflow.log_metric(name, value, step=step)

    def close(self, results: Mapping[str, float], failed: bool) -> None:
        self.mlflow.log_metrics({f"results/{key}": value for key, value in results.items()})
        self.mlflow.end_run("FAILED" if failed else "FINISHED")


TRACKERS: dict[str, Callable[[str, Mapping[str, Any], str], _Tracker]] = {"wandb": _Wandb, "mlflow": _Mlflow}


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError if the package of a tracker is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--log-to {name} needs {name}, which is not installed: pip install {name}")


@contextlib.contextmanager
def tracked(names: Sequence[str], trainer: Any, evaluations: Any) -> Iterator[None]:
    """Send what the trainer writes to TensorBoard to trackers too, and at the end the results of its last evaluation.

    Args:
        names: of trackers, as in `TRACKERS`.
        trainer: a Dassl trainer.
        evaluations: of the trainer (`qprompt.runs.finish.Evaluations`).

    Raises:
        UserError: A tracker refuses, as without a login.
    """
    cfg = trainer.cfg
    config = flatten(to_dict(cfg))
    name = f"{cfg.TRAINER.NAME} {cfg.DATASET.NAME} seed {cfg.SEED}"
    opened: list[_Tracker] = []
    write, failed = trainer.write_scalar, True

    def write_scalar(tag: str, value: Any, global_step: int | None = None) -> None:
        write(tag, value, global_step)
        for tracker in opened:
            tracker.scalar(tag, float(value), global_step)

    try:
        for tracker in names:
            try:
                opened.append(TRACKERS[tracker](name, config, cfg.OUTPUT_DIR))
            except Exception as error:  # of its library, of its HTTP client
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                raise UserError(f"--log-to {tracker}: {reason}") from error
        trainer.write_scalar = write_scalar
        yield
        failed = False
    finally:
        trainer.write_scalar = write
        for each in opened:
            each.close(evaluations.last, failed)
