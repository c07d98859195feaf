"""The miniature checkout (tests/dropin_checkout) in the process of the tests: its modules, and trainers of them."""

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import set_random_seed

from qprompt.dropin import config_keys
from qprompt.dropin.registry import quantized_class
from qprompt.io.logs import show_logs
from qprompt.training.defaults import add_quant_cfg

FOLDER = Path(__file__).resolve().parent / "dropin_checkout"
PACKAGE = "miniature_trainers"


@contextlib.contextmanager
def imported() -> Iterator[None]:
    """Within the context, import the modules of the miniature checkout, and register its trainers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_keys, "given", {"BITS"})  # as if BITS 1 had been typed
        for name, part in (("clip", "clip/__init__"), ("dots", "datasets/dots")):
            spec = importlib.util.spec_from_file_location(name, FOLDER / f"{part}.py")
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
        package = types.ModuleType(PACKAGE)
        package.__path__ = [str(FOLDER / "trainers")]
        patch.setitem(sys.modules, PACKAGE, package)
        for part in ("prompted", "zoo", "habits"):
            importlib.import_module(f"{PACKAGE}.{part}")
        yield
    DATASET_REGISTRY._obj_map.pop("Dots", None)
    names = TRAINER_REGISTRY.registered_names()
    for name in [n for n in names if TRAINER_REGISTRY.get(n).__module__.startswith(PACKAGE)]:
        del TRAINER_REGISTRY._obj_map[name]
    for name in [name for name in sys.modules if name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]


def build(folder: Path, name: str, *options, output: str = "output", seed: int = 1):
    """Return the trainer X or QX, seeded, on the miniature data set, with 3 epochs.

    Args:
        folder: for the data and the outputs.
        name: of the trainer.
        options: KEY, value, ...
        output: name of the output folder.
        seed: of the model.
    """
    show_logs()
    cfg = get_cfg_default()
    add_quant_cfg(cfg)
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    cfg.TRAINER.PROMPTED = type(cfg)({"N_CTX": 4})
    settings = {
        "INPUT.SIZE": (8, 8),
        "INPUT.TRANSFORMS": ("normalize",),
        "DATASET.NAME": "Dots",
        "DATASET.ROOT": str(folder),
        "OUTPUT_DIR": str(folder / output),
        "DATALOADER.NUM_WORKERS": 0,
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": 0.5,
        "OPTIM.MAX_EPOCH": 3,
        "OPTIM.LR_SCHEDULER": "cosine",
        "DATALOADER.TRAIN_X.BATCH_SIZE": 6,
        "TRAINER.NAME": name,
        "USE_CUDA": False,
    }
    settings |= dict(zip(options[::2], options[1::2], strict=True))
    cfg.merge_from_list([word for pair in settings.items() for word in pair])
    cfg.freeze()
    base = TRAINER_REGISTRY.get(name.removeprefix("Q"))
    set_random_seed(seed)
    return (quantized_class(base) if name.startswith("Q") else base)(cfg)


@pytest.fixture(scope="module", autouse=True)
def checkout():
    """The modules of the miniature checkout, for all tests of a file that imports this fixture."""
    with imported():
        yield


@pytest.fixture(name="build")
def build_in(tmp_path):
    """build("QX", KEY, value, ...) -> the trainer; see the function `build`."""
    return functools.partial(build, tmp_path)
