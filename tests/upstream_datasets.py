"""Digests of what upstream's data set files make of a tree; run as a script in its own process.

    python tests/upstream_datasets.py CHECKOUT DASSL ROOT MODE

CHECKOUT holds upstream's ``datasets`` package (CoOp, MaPLe, PromptSRC), DASSL a Dassl checkout, ROOT the trees of
`trees.build`. MODE: ``fresh`` (no cache before each draw), ``nosplit`` (nor a split file), ``history`` (caches and
the drawn split stay from seed to seed). Prints {"Name/shots/seed/subset": digest} as JSON. `os.listdir` is sorted
here, because upstream takes the order that the file system happens to give.
"""

import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import pkgutil
import random
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

SHOTS = (1, 2, 4, 8, 16)
SEEDS = (0, 1, 2, 3)
SUBSETS = ("all", "base", "new")
Items = list[tuple[str, int, str]]


def digest(train: Items, val: Items, test: Items) -> str:
    """Short hash of three lists of (path below the root, label, class name) and of the class names they give."""
    names = {label: name for _, label, name in train}
    classes = [names[label] for label in sorted(names)]
    text = json.dumps([train, val, test, classes, max(names) + 1])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def wipe(folder: Path, split: bool) -> None:
    """Remove what runs leave in the tree: draws, listings, and the split file too if `split`."""
    shutil.rmtree(folder / "split_fewshot", ignore_errors=True)
    (folder / "preprocessed.pkl").unlink(missing_ok=True)
    if split:
        for file in folder.glob("split_zhou_*.json"):
            file.unlink()


def sweep(
    folders: dict[str, Path], mode: str, load: Callable[[str, int, int, str], str], shots_list: tuple[int, ...] = SHOTS
) -> Iterator[tuple[str, str]]:
    """("Name/shots/seed/subset", ``load(name, shots, seed, subset)``) in the order in which runs would follow."""
    for name, folder in folders.items():
        for shots in shots_list:
            if mode == "history":
                wipe(folder, split=True)
            for seed in SEEDS:
                if mode != "history":
                    wipe(folder, split=mode == "nosplit")
                for subset in SUBSETS:
                    yield f"{name}/{shots}/{seed}/{subset}", load(name, shots, seed, subset)


class _Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for packages that Dassl imports and none of these data sets uses."""

    names = ("gdown", "ogb", "pandas", "tabulate", "wilds")

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: type(name, (), {})  # type: ignore[method-assign]
        return module

    def exec_module(self, module):
        pass


def main(checkout: str, dassl: str, root: str, mode: str) -> None:
    import torch  # noqa: F401 (before the stand-ins: torch looks for some of these packages itself)
    import trees

    sys.path[:0] = [checkout, dassl]
    sys.meta_path.append(_Missing())
    listdir = os.listdir
    os.listdir = lambda path=".": sorted(listdir(path))
    from dassl.data.datasets import DATASET_REGISTRY

    import datasets

    for module in pkgutil.iter_modules(datasets.__path__):
        importlib.import_module(f"datasets.{module.name}")

    def items(part) -> Items:
        return [(os.path.relpath(i.impath, root), i.label, i.classname) for i in part or []]

    def load(name: str, shots: int, seed: int, subset: str) -> str:
        options = types.SimpleNamespace(ROOT=root, NUM_SHOTS=shots, SUBSAMPLE_CLASSES=subset)
        random.seed(seed)  # upstream's set_random_seed; only Python's generator matters here
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = DATASET_REGISTRY.get(name)(types.SimpleNamespace(DATASET=options, SEED=seed))
        return digest(items(dataset.train_x), items(dataset.val), items(dataset.test))

    folders = {name: Path(root, folder) for name, (folder, _, _) in trees.DATASETS.items()}
    print(json.dumps(dict(sweep(folders, mode, load))))
    sys.meta_path.pop()
    for name in list(sys.modules):
        if name.split(".")[0] in _Missing.names:
            del sys.modules[name]


if __name__ == "__main__":
    main(*sys.argv[1:])
