"""Print results of the ``dassl`` on the Python path as JSON. Run it as a script, in a new process.

    PYTHONPATH=qprompt/engine:. python tests/engine_probe.py      (bundled)
    PYTHONPATH=<checkout of Dassl> python tests/engine_probe.py   (real)

The results under "stable" are the same on every machine; tests/golden/dassl.json contains those of real Dassl 0.6.3.
Those under "here" serve to compare two engines on one machine: augmented images depend on the versions of Pillow and
torchvision.
"""

# ruff: noqa: NPY002 (Dassl draws from numpy's global generator)

import contextlib
import hashlib
import io
import json
import random
import sys
import tempfile
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SCHEDULES = {
    "coop": {"LR": 0.002, "MAX_EPOCH": 20, "LR_SCHEDULER": "cosine", "WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant"},
    "maple": {"LR": 0.0035, "MAX_EPOCH": 5, "LR_SCHEDULER": "cosine", "WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant"},
    "linear": {"LR": 0.01, "MAX_EPOCH": 12, "LR_SCHEDULER": "cosine", "WARMUP_EPOCH": 4, "WARMUP_TYPE": "linear"},
    "no recount": {
        "LR": 0.01,
        "MAX_EPOCH": 12,
        "LR_SCHEDULER": "cosine",
        "WARMUP_EPOCH": 3,
        "WARMUP_TYPE": "linear",
        "WARMUP_RECOUNT": False,
    },
    "single": {"LR": 0.1, "MAX_EPOCH": 10, "LR_SCHEDULER": "single_step", "STEPSIZE": (3,)},
    "single to the end": {"LR": 0.1, "MAX_EPOCH": 6},
    "multi": {
        "LR": 0.1,
        "MAX_EPOCH": 10,
        "LR_SCHEDULER": "multi_step",
        "STEPSIZE": (2, 5),
        "WARMUP_EPOCH": 2,
        "WARMUP_TYPE": "constant",
    },
}
OPTIMIZERS = ("adam", "amsgrad", "sgd", "rmsprop", "adamw")  # real Dassl's radam fails on current torch
_AUGMENTATIONS = """
random_flip random_resized_crop random_crop random_translation cutout imagenet_policy cifar10_policy svhn_policy
randaugment randaugment_fixmatch randaugment2 gaussian_noise colorjitter randomgrayscale gaussian_blur instance_norm
"""
AUGMENTATIONS = _AUGMENTATIONS.split()
_MODULES = "config data data.data_manager data.samplers data.transforms metrics optim evaluation utils"
MODULES = _MODULES.split()


def seed(value):
    from dassl.utils import set_random_seed

    set_random_seed(value)


def flat(node, prefix=""):
    out = {}
    for key, value in node.items():
        if isinstance(value, dict):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = [type(value).__name__, value]
    return out


def config_with(**options):
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    for key, value in options.items():
        node = cfg
        *path, last = key.split("__")
        for name in path:
            node = node[name]
        node[last] = value
    return cfg


def learning_rates():
    from dassl.optim import build_lr_scheduler, build_optimizer

    out = {}
    for name, settings in SCHEDULES.items():
        cfg = config_with(**{f"OPTIM__{key}": value for key, value in settings.items()}).OPTIM
        optimizer = build_optimizer(torch.nn.Linear(1, 1), cfg)
        scheduler = build_lr_scheduler(optimizer, cfg)
        out[name] = []
        for _ in range(cfg.MAX_EPOCH):
            out[name].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return out


def updates():
    """Return the weights after three steps of each optimizer."""
    from dassl.optim import build_optimizer

    out = {}
    for name in OPTIMIZERS:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 5))
        optimizer = build_optimizer([weight], config_with(OPTIM__NAME=name, OPTIM__LR=0.1).OPTIM)
        for _ in range(3):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
        out[name] = [round(v, 6) for v in weight.tolist()]
    return out


def items(folder, classes=5, images=9, domains=3):
    """Return `Datum`s of different images, with labels in no order."""
    from dassl.data.datasets import Datum

    out = []
    for k in range(images):
        for label in (3, 0, 4, 1, 2)[:classes]:
            if k >= images - label:
                continue
            path = Path(folder) / f"{label}-{k}.png"
            if not path.exists():
                pixels = np.random.default_rng([label, k]).integers(0, 255, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
            out.append(Datum(str(path), label, (label + k) % domains, f"class {label}"))
    return out


def draws(data):
    """Return what the samplers and the few-shot draw choose, and the next random number after each."""
    from dassl.data.datasets import DatasetBase
    from dassl.data.samplers import build_sampler

    out = {}
    for name in ("RandomDomainSampler", "SeqDomainSampler", "RandomClassSampler", "SequentialSampler"):
        seed(3)
        sampler = build_sampler(name, data_source=data, batch_size=6, n_domain=2, n_ins=3)
        out[name] = [[int(i) for i in sampler], len(sampler), random.random()]
    seed(3)
    sampler = build_sampler("RandomClassSampler", data_source=data, batch_size=14, n_ins=7)  # repeats some
    out["RandomClassSampler, repeating"] = [[int(i) for i in sampler], len(sampler), random.random()]
    base = DatasetBase(train_x=data)
    for shots, repeat in ((1, False), (4, False), (8, False), (8, True)):
        seed(3)
        chosen = base.generate_fewshot_dataset(data, data[:11], num_shots=shots, repeat=repeat)
        out[f"{shots} shots, {repeat}"] = [[Path(i.impath).stem for i in part] for part in chosen]
    out["classes"] = [base.num_classes, base.classnames, sorted(base.lab2cname)]
    return out


def texts():
    from dassl.evaluation import build_evaluator
    from dassl.metrics import compute_accuracy
    from dassl.utils import AverageMeter, MetricMeter, check_availability, get_most_similar_str_to_a_from_b

    meter = MetricMeter()
    for k in range(3):
        meter.update({"loss": torch.tensor(0.1 * k), "acc": 50.0 + k})
    ema = AverageMeter(ema=True)
    ema.update(2.0)
    ema.update(4.0, n=2)
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 5
    cfg = config_with(TEST__PER_CLASS_RESULT=True)
    evaluator = build_evaluator(cfg, lab2cname={i: f"c{i}" for i in range(7)})
    evaluator.process(logits[:20], labels[:20])
    evaluator.process(logits[20:], labels[20:])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        results = evaluator.evaluate()
    try:
        check_availability("Caltech11", ["Caltech101", "EuroSAT"])
    except ValueError as error:
        refusal = str(error)
    return {
        "meter": str(meter),
        "ema": [ema.val, ema.avg, ema.sum, ema.count],
        "accuracy": [a.tolist() for a in compute_accuracy(logits, labels, topk=(1,))],  # real Dassl fails for k > 1
        "evaluation": printed.getvalue(),
        "results": {key: round(float(value), 6) for key, value in results.items()},
        "refusal": refusal,
        "similar": get_most_similar_str_to_a_from_b("adam", ["sgd", "adamw", "adamx", "rmsprop"]),
    }


def distances():
    from dassl.metrics import compute_distance_matrix

    a, b = torch.arange(6.0).view(2, 3), torch.arange(9.0).view(3, 3) / 3
    return {
        kind: [[round(v, 4) for v in row] for row in compute_distance_matrix(a, b, kind).tolist()]
        for kind in ("euclidean", "cosine")
    }


def augmented(data):
    """Return the digests of images after each transform, the lines that it prints, and the next random numbers."""
    from dassl.data.transforms import build_transform

    out = {}
    image = Image.open(data[0].impath).convert("RGB")
    for name in AUGMENTATIONS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            cfg = config_with(INPUT__SIZE=(32, 24), INPUT__GB_K=5, INPUT__TRANSFORMS=(name, "normalize"))
            train, test = build_transform(cfg), build_transform(cfg, is_train=False)
        seed(5)
        pictures = [train(image) for _ in range(40)] + [test(image)]
        out[name] = [hashlib.sha256(torch.stack(pictures[:-1]).numpy().tobytes()).hexdigest(), printed.getvalue()]
        out[name].append(hashlib.sha256(pictures[-1].numpy().tobytes()).hexdigest())
        out[name].append([random.random(), np.random.get_state()[2], torch.rand(1).item()])
    return out


def batches(data):
    """Return the order of images in two training epochs and a test epoch, with workers, and pixels of the test."""
    import dassl.data.data_manager as dm

    out = []
    cfg = config_with(INPUT__SIZE=(32, 32), INPUT__TRANSFORMS=("random_flip",), DATALOADER__NUM_WORKERS=1)
    plain = config_with(INPUT__SIZE=(32, 32), INPUT__TRANSFORMS=("normalize",), DATALOADER__NUM_WORKERS=1)
    with contextlib.redirect_stdout(io.StringIO()):
        flip, fixed = dm.build_transform(cfg), dm.build_transform(plain)
    seed(7)
    train = dm.build_data_loader(cfg, "RandomSampler", data, batch_size=8, tfm=flip)
    test = dm.build_data_loader(plain, "SequentialSampler", data, batch_size=8, tfm=fixed, is_train=False)
    for loader in (train, test, train):
        for batch in loader:
            out.append([batch["index"].tolist(), batch["label"].tolist(), batch["domain"].tolist()])
            if loader is test:
                out[-1].append(hashlib.sha256(batch["img"].numpy().tobytes()).hexdigest())
        out.append(torch.initial_seed())
    out.append(torch.rand(2).tolist())
    return out


def names():
    """Return the public names of each module that prompt learning uses."""
    import dassl.config
    import dassl.data
    import dassl.data.data_manager
    import dassl.data.datasets
    import dassl.data.samplers
    import dassl.data.transforms
    import dassl.engine
    import dassl.evaluation
    import dassl.metrics
    import dassl.optim
    import dassl.utils

    out = {}
    for name in MODULES:
        module = sys.modules[f"dassl.{name}"]
        public = [key for key, value in vars(module).items() if not key.startswith("_")]
        own = [key for key in public if not isinstance(vars(module)[key], types.ModuleType)]
        out[name] = sorted(key for key in own if getattr(vars(module)[key], "__module__", "dassl").startswith("dassl"))
    trainer = {}
    for name in ("TrainerBase", "SimpleTrainer", "TrainerX", "TrainerXU"):
        trainer[name] = sorted(key for key in dir(getattr(dassl.engine, name)) if not key.startswith("_"))
    return {"modules": out, "trainers": trainer}


def main():
    warnings.simplefilter("ignore")
    vars(np).setdefault("int", int)  # real Dassl's policies use this old name
    stdout = sys.stdout
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        data = items(folder)
        from dassl.config import get_cfg_default

        stable = {
            "config": flat(get_cfg_default()),
            "learning_rates": learning_rates(),
            "updates": updates(),
            "draws": draws(data),
            "texts": texts(),
            "distances": distances(),
            "names": names(),
        }
        here = {"augmented": augmented(data), "batches": batches(data)}
    json.dump({"stable": stable, "here": here}, stdout)


if __name__ == "__main__":
    main()
