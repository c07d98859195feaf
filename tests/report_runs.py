"""Writes metrics.json files like those of runs, for the tests of the report."""

import json
import random
from pathlib import Path

LEVELS = {  # trainer -> base, new, payload bytes
    "ZeroshotCLIP": (76.0, 77.5, None),
    "CoOp": (85.0, 67.0, 1024),
    "QCoOp": (83.0, 72.0, 68),
}


def write_run(
    folder, trainer="CoOp", dataset="TinyWorld", *, mode="train", classes="base", seed=1, accuracy=80.0, **more
):
    """Write a metrics.json; `more` overrides its entries, `settings` (dotted keys) are put into config and changed."""
    settings = {"OPTIM.MAX_EPOCH": 200, "DATASET.DRAW": more.pop("draw", 0), **more.pop("settings", {})}
    config: dict = {}
    for key, value in settings.items():
        *parents, name = key.split(".")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    data = {
        "schema": 1,
        "finished": "2026-01-01T00:00:00+0000",
        "mode": mode,
        "trainer": trainer,
        "dataset": dataset,
        "seed": seed,
        "shots": 16,
        "classes": classes,
        "backbone": "tiny",
        "results": {"accuracy": accuracy, "error_rate": 100 - accuracy, "macro_f1": accuracy, "correct": 1, "total": 2},
        "time_s": 12.5 if mode == "train" else 2.0,
        "changed": {"SEED": seed, "OUTPUT_DIR": str(folder), **settings},
        "config": config,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(data | more))
    return folder


def write_base2new(root, datasets=("TinyWorld",), seeds=(1, 2, 3), trainers=tuple(LEVELS), draws=(0,), curves=False):
    """Write runs of the base-to-new protocol. Accuracies have a standard deviation of one point, with a fixed seed."""
    rng = random.Random(0)
    for dataset in datasets:
        for draw in draws:
            for trainer in trainers:
                base, new, stored = LEVELS[trainer]
                for seed in seeds if stored else seeds[:1]:
                    accuracies = (base + rng.gauss(0, 1), new + rng.gauss(0, 1))
                    _write_one(Path(root), dataset, draw, trainer, seed, accuracies, stored, curves)
    return Path(root)


def _write_one(root, dataset, draw, trainer, seed, accuracies, stored, curves):
    where = f"{dataset}/shots_16/{trainer}/cfg/draw{draw}/seed{seed}"
    train = root / "train_base" / where
    if stored:
        more = {"prompt": {"payload_bytes": stored}, "draw": draw}
        write_run(train, trainer, dataset, seed=seed, accuracy=accuracies[0], **more)
    for index, classes in enumerate(("base", "new")):
        last = accuracies[index]
        more = {"model_dir": str(train)} if stored else {}
        if curves and stored:
            start = LEVELS["ZeroshotCLIP"][index]
            epochs = [*range(0, 200, 10), 200]
            more["curve"] = [{"epoch": e, "accuracy": start + (last - start) * (1 - 0.97**e)} for e in epochs]
        folder = root / f"test_{classes}" / where
        write_run(folder, trainer, dataset, mode="eval", classes=classes, seed=seed, accuracy=last, draw=draw, **more)
