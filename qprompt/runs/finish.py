"""From a trainer that has finished to its metrics.json."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qprompt.data.images import pixels_of
from qprompt.data.items import Item, Split, split_hash
from qprompt.io.nested import difference, to_dict
from qprompt.runs.environment import hardware, peak_memory_bytes, versions
from qprompt.runs.metrics import Metrics, write_metrics


class Evaluations:
    """Records the results of every evaluation of a trainer as plain numbers.

    It wraps ``trainer.evaluator.evaluate`` and works with the real and with the bundled engine.

    Attributes:
        last: Results of the last evaluation.
    """

    def __init__(self, trainer: Any):
        self.last: dict[str, Any] = {}
        evaluate = trainer.evaluator.evaluate

        def recorded() -> dict[str, float]:
            results = evaluate()
            self.last = {name: float(value) for name, value in results.items()}
            for name in ("correct", "total"):
                count = getattr(trainer.evaluator, f"_{name}", None)
                if count is not None:
                    self.last[name] = int(count)
            return results

        trainer.evaluator.evaluate = recorded


def dataset_hash(dataset: Any, root: str) -> str:
    """Return the `split_hash` of a Dassl data set, with paths relative to `root`."""
    base = os.path.abspath(root)

    def items(part: str) -> list[Item]:
        return [
            Item(os.path.relpath(os.path.abspath(item.impath), base), item.label, item.classname)
            for item in getattr(dataset, part, None) or ()
        ]

    parts = ("train_x", "val", "test")
    return split_hash(Split(*map(items, parts)), parts)


def finish(
    output_dir: str,
    trainer: Any,
    mode: str,
    results: dict[str, Any],
    started: float,
    engine: str,
    defaults: Mapping[str, Any],
    **more: Any,
) -> Path:
    """Write metrics.json, which makes the run in `output_dir` a finished run.

    Args:
        output_dir: Output folder of the run.
        trainer: The trainer, with its config, data and device.
        mode: "train" or "eval".
        results: Results of the last evaluation, see `Evaluations`.
        started: What ``time.monotonic()`` returned when the run started.
        engine: Name and version of the Dassl engine.
        defaults: The default config.
        **more: Other fields of `Metrics`.

    Returns:
        The path of metrics.json.
    """
    cfg, device = trainer.cfg, str(trainer.device)
    config = to_dict(cfg)
    metrics = Metrics(
        finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        mode=mode,
        trainer=cfg.TRAINER.NAME,
        dataset=cfg.DATASET.NAME,
        seed=cfg.SEED,
        shots=cfg.DATASET.NUM_SHOTS,
        classes=cfg.DATASET.SUBSAMPLE_CLASSES,
        backbone=cfg.MODEL.BACKBONE.NAME,
        results=results,
        pixels=pixels_of(cfg.DATASET.NAME),
        **more,
        time_s=round(time.monotonic() - started, 3),
        peak_memory_bytes=peak_memory_bytes(device),
        split_sha256=dataset_hash(trainer.dm.dataset, cfg.DATASET.ROOT),
        versions=versions(engine),
        hardware=hardware(device),
        changed={key: ours for key, (ours, _) in difference(config, to_dict(defaults)).items()},
        config=config,
    )
    return write_metrics(Path(output_dir), metrics)
