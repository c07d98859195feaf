"""Files, seeds, and suggestions for misspelled names."""

# ruff: noqa: NPY002 (set_random_seed seeds numpy's global generator)

import difflib
import json
import os
import platform
import random
import sys
import urllib.request
import warnings

import numpy as np
import PIL
import torch
from PIL import Image

from qprompt.errors import UserError
from qprompt.io.files import atomic_open

__all__ = [
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "download_url",
    "get_most_similar_str_to_a_from_b",
    "listdir_nohidden",
    "mkdir_if_missing",
    "read_image",
    "read_json",
    "set_random_seed",
    "tolist_if_not",
    "write_json",
]


class Unavailable(UserError, ValueError):
    """A name that is not registered. Also a ValueError, which Dassl raises."""


class BadFile(UserError, OSError):
    """A file that is missing or cannot be read."""


def mkdir_if_missing(dirname):
    """Create a folder and its parents unless it exists; an empty name does nothing."""
    if dirname:
        os.makedirs(dirname, exist_ok=True)


def check_isfile(fpath):
    """Return whether `fpath` is a file; warn if it is not."""
    isfile = os.path.isfile(fpath)
    if not isfile:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return isfile


def read_json(fpath):
    """Return the content of a JSON file; UserError if it is not valid JSON."""
    with open(fpath, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise BadFile(f"{fpath} is not valid JSON ({error})") from None


def write_json(obj, fpath):
    """Write `obj` as JSON with an indentation of 4, atomically; create missing folders."""
    text = json.dumps(obj, indent=4, separators=(",", ": "))
    with atomic_open(fpath) as file:
        file.write(text.encode("utf-8"))


def set_random_seed(seed):
    """Seed the generators of Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def download_url(url, dst):
    """Download `url` to the file `dst`, which appears when it is complete."""
    print(f'* url="{url}"')
    print(f'* destination="{dst}"')
    with urllib.request.urlopen(url) as source, atomic_open(dst) as file:
        total = int(source.headers.get("Content-Length") or 0)
        done = 0
        while chunk := source.read(1 << 20):
            file.write(chunk)
            done += len(chunk)
            share = f"{100 * done // total}%, " if total else ""
            sys.stdout.write(f"\r...{share}{done >> 20} MB")
            sys.stdout.flush()
    sys.stdout.write("\n")


def read_image(path):
    """Return an image file as an RGB PIL image; UserError with its path if it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadFile(f"cannot read the image {path}: {error}") from error


def collect_env_info():
    """Return the versions and the hardware that results depend on, one per line.

    It starts no process and calls no package manager, so it takes milliseconds.
    """
    import torchvision

    lines = {
        "PyTorch version": torch.__version__,
        "torchvision version": torchvision.__version__,
        "CUDA used to build PyTorch": torch.version.cuda or torch.version.hip or "none",
        "Python version": f"{platform.python_version()} ({platform.python_implementation()})",
        "OS": platform.platform(),
        "CPU": f"{platform.processor() or platform.machine()}, {os.cpu_count()} logical cores",
        "Threads": torch.get_num_threads(),
        "Is CUDA available": torch.cuda.is_available(),
    }
    if torch.cuda.is_available():
        lines["cuDNN version"] = torch.backends.cudnn.version()
        for i in range(torch.cuda.device_count()):
            lines[f"GPU {i}"] = torch.cuda.get_device_name(i)
    lines["numpy"] = np.__version__
    lines["Pillow"] = PIL.__version__
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def listdir_nohidden(path, sort=False):
    """Return the names in a folder that do not start with a dot, in the order of the file system unless `sort`."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def get_most_similar_str_to_a_from_b(a, b):
    """Return the string in `b` that is most similar to `a` (the last of equals); None if `b` is empty."""
    candidates = list(b)
    return max(reversed(candidates), key=lambda name: difflib.SequenceMatcher(None, a, name).ratio(), default=None)


def check_availability(requested, available):
    """Raise an error that names the most similar name if `requested` is not in `available`."""
    if requested not in available:
        closest = get_most_similar_str_to_a_from_b(requested, available)
        raise Unavailable(
            f"The requested one is expected to belong to {available}, but got [{requested}] (do you mean [{closest}]?)"
        )


def tolist_if_not(x):
    """Return `x` if it is a list, otherwise ``[x]``."""
    return x if isinstance(x, list) else [x]
