"""Checks of the command line of train.py that need no PyTorch, so that a typing mistake is answered at once."""

import argparse
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from qprompt.errors import UserError, did_you_mean
from qprompt.runs import config
from qprompt.runs.project import dataset_names, find_file, trainer_names
from qprompt.training.trackers import check_trackers

# The embedded CLIP and OpenAI's models, for which the package clip would have to be imported, and with it torch.
BACKBONES = (
    *("tiny", "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"),
    *("ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"),
)
# What a run imports that `import qprompt` does not.
_REQUIRED = ("torch", "torchvision", "clip", "yacs", "yaml", "numpy", "PIL", "safetensors", "filelock")

_DISTRIBUTIONS = {"clip": "clip-anytorch", "yaml": "PyYAML", "PIL": "pillow"}


def check_installed(project: Path) -> None:
    """Raise UserError if a required package is missing, and say how to enter or make the environment."""
    missing = next((name for name in _REQUIRED if importlib.util.find_spec(name) is None), None)
    if missing is None:
        return
    environment = project / ".venv/bin/activate"
    if environment.is_file():
        how = f"type 'source {environment}' to enter the environment that has it"
    elif (project / "setup.py").is_file():
        how = f"type 'pip install -e {project}'"
    else:
        how = f"type 'pip install {_DISTRIBUTIONS.get(missing, missing)}'"
    raise UserError(f"the package {missing!r} is not installed in this Python: {how}.")


def check_arguments(args: argparse.Namespace, project: Path) -> None:
    """Check files, folders and names.

    Args:
        args: of ``train.py``.
        project: the folder with trainers/ and datasets/.

    Raises:
        UserError: A file or folder does not exist, or there is no trainer or data set of this name.
    """
    check_installed(project)
    check_trackers(args.log_to)
    config.check_pairs(args.opts)
    options = dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    for path in filter(None, (args.dataset_config_file, args.config_file)):
        config.value_in_file(str(find_file(path)), "")  # reads it
    if args.root and not os.path.isdir(os.path.expanduser(args.root)) and not _may_generate(args, options):
        raise UserError(f"the data root {args.root!r} does not exist: --root names the folder of the data sets.")
    if args.model_dir and not os.path.isdir(args.model_dir):
        raise UserError(f"--model-dir {args.model_dir!r} is not a folder: it is the --output-dir of a training run.")
    if args.resume and not os.path.isdir(args.resume):
        raise UserError(f"--resume {args.resume!r} is not a folder: it is the --output-dir of an unfinished run.")
    if has_dassl() or "dassl" in sys.modules:  # the registries may hold names from elsewhere: they are asked later
        return
    trainer = requested(args, options, "TRAINER.NAME", args.trainer)
    check_name(trainer, trainer_names(project), "trainer", "--trainer")
    dataset = requested(args, options, "DATASET.NAME")
    check_name(dataset, dataset_names(project), "data set", "--dataset-config-file or DATASET.NAME")


def requested(args: argparse.Namespace, options: dict[str, str], key: str, flag: str = "") -> str:
    """Return the value of a config key that the arguments or the config files give; later ones win."""
    files = (find_file(path) for path in (args.config_file, args.dataset_config_file) if path)
    given = options.get(key) or flag
    return given or str(next(filter(None, (config.value_in_file(str(path), key) for path in files)), ""))


def check_name(name: str, known: list[str], what: str, how: str) -> None:
    """Raise UserError for a name that is not `known`; `how` is what to type."""
    if not name:
        raise UserError(f"no {what} given: {how} names one of {', '.join(known)}.")
    if name not in known:
        raise UserError(f"no {what} {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}.")


def _may_generate(args: argparse.Namespace, options: dict[str, Any]) -> bool:
    """Return whether the data set may be one that draws its images into a new folder (only its class knows)."""
    return requested(args, options, "DATASET.NAME") not in ("ImageFolder", "ImageList", "")


def has_dassl() -> bool:
    """Return whether a Dassl is installed, which has trainers and data sets of its own."""
    return importlib.machinery.PathFinder.find_spec("dassl") is not None
