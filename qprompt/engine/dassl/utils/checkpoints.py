"""Checkpoints: saved atomically as plain values, loaded without executing them, resumed."""

import io
import os
import shutil
from collections import Counter, OrderedDict

import numpy as np
import torch

from qprompt.errors import UserError
from qprompt.io.files import atomic_open
from qprompt.io.torch_files import read_torch_file

from .tools import BadFile, mkdir_if_missing

__all__ = ["load_checkpoint", "load_pretrained_weights", "resume_from_checkpoint", "save_checkpoint"]


class CheckpointMissing(UserError, FileNotFoundError):
    """A checkpoint that does not exist."""


class CheckpointMismatch(UserError, RuntimeError):
    """A checkpoint that does not fit the model, the optimizer or the scheduler."""


def _plain(value, where="checkpoint"):
    """Return `value` reduced to tensors, plain values and containers, which torch's weights-only reader accepts."""
    if isinstance(value, torch.Tensor):
        # Saving a view would save its whole storage.
        storage = value.untyped_storage() if hasattr(value, "untyped_storage") else value.storage()  # torch 1
        is_view = storage.nbytes() > value.numel() * value.element_size()
        return value.detach().clone() if is_view else value
    if isinstance(value, np.generic):  # before float, because np.float64 is a float
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype, Counter)):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        return kind((k, _plain(v, f"{where}[{k!r}]")) for k, v in value.items())
    if isinstance(value, (list, tuple, set)):
        items = [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    print(f"Note: {where} is a live {type(value).__name__} and is left out of the file")
    return None


def _without_module_prefix(state_dict):
    return OrderedDict((key.removeprefix("module."), value) for key, value in state_dict.items())


def save_checkpoint(state, save_dir, is_best=False, remove_module_from_keys=True, model_name=""):
    """Save a checkpoint to ``save_dir/model.pth.tar-{epoch}``, atomically, and its name to ``save_dir/checkpoint``.

    Args:
        state: ``{"state_dict", "epoch", ...}``. Live objects in it are left out, so that torch's weights-only reader
            accepts the file.
        save_dir: folder; created if it does not exist.
        is_best: whether to copy the file to ``model-best.pth.tar``.
        remove_module_from_keys: remove the prefix "module." of DataParallel from the keys of the state dict.
        model_name: file name to use instead.
    """
    mkdir_if_missing(save_dir)
    if remove_module_from_keys:
        state["state_dict"] = _without_module_prefix(state["state_dict"])

    fpath = os.path.join(save_dir, model_name or f"model.pth.tar-{state['epoch']}")
    content = io.BytesIO()  # when torch.save writes to a file, it hides the error of the disk
    torch.save(_plain(state), content)
    with atomic_open(fpath) as file:
        file.write(content.getbuffer())
    print(f"Checkpoint saved to {fpath}")

    # written last, because it must name a file that exists
    with atomic_open(os.path.join(save_dir, "checkpoint")) as file:
        file.write(f"{os.path.basename(fpath)}\n".encode())

    if is_best:
        best_fpath = os.path.join(save_dir, "model-best.pth.tar")
        with open(fpath, "rb") as source, atomic_open(best_fpath) as file:
            shutil.copyfileobj(source, file)
        print(f'Best checkpoint saved to "{best_fpath}"')


def load_checkpoint(fpath):
    """Return the content of a checkpoint file, on the CPU: it may come from a GPU that is not here.

    Nothing in the file is executed. Live objects, which checkpoints of real Dassl contain, become inert placeholders.

    Raises:
        UserError: the file does not exist or is damaged.
    """
    if fpath is None:
        raise ValueError("File path is None")
    if not os.path.isfile(fpath):
        raise CheckpointMissing(f'File is not found at "{fpath}"')
    try:
        return read_torch_file(fpath, map_location="cpu")
    except ValueError as error:
        raise BadFile(f"{fpath} is not a readable checkpoint: {error}") from error


def load_into(checkpoint, fpath, model, optimizer=None, scheduler=None):
    """Load the states in the checkpoint `fpath` into the given objects; UserError if they do not fit."""
    parts = {"state_dict": model, "optimizer": optimizer, "scheduler": scheduler}
    try:
        for key, part in parts.items():
            if part is not None and checkpoint.get(key) is not None:
                part.load_state_dict(checkpoint[key])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise CheckpointMismatch(f"{fpath} does not fit this model: {'; '.join(lines[:3])}{more}") from error


def resume_from(checkpoint, fpath, model, optimizer=None, scheduler=None):
    """Call `load_into`, print Dassl's log lines and return the number of epochs trained."""
    print(f'Loading checkpoint from "{fpath}"')
    load_into(checkpoint, fpath, model, optimizer, scheduler)
    print("Loaded model weights")
    if optimizer is not None:
        print("Loaded optimizer")
    if scheduler is not None:
        print("Loaded scheduler")
    print(f"Previous epoch: {checkpoint['epoch']}")
    return checkpoint["epoch"]


def latest_checkpoint(fdir):
    """Return the path of the file named by ``fdir/checkpoint``."""
    try:
        with open(os.path.join(fdir, "checkpoint"), encoding="utf-8") as file:
            name = file.readline().strip()
    except FileNotFoundError:
        raise CheckpointMissing(f'No checkpoint in "{fdir}": the file "checkpoint" is missing') from None
    return os.path.join(fdir, name)


def resume_from_checkpoint(fdir, model, optimizer=None, scheduler=None):
    """Load the newest checkpoint in the folder `fdir` into the given objects; return the number of epochs trained."""
    fpath = latest_checkpoint(fdir)
    return resume_from(load_checkpoint(fpath), fpath, model, optimizer, scheduler)


def load_pretrained_weights(model, weight_path):
    """Load the entries of a weight file that match the model by name and shape.

    The prefix "module." is removed from names. Entries that do not match are skipped and listed.

    Raises:
        UserError: the file does not exist or is damaged, or no entry matches.
    """
    checkpoint = load_checkpoint(weight_path)
    state_dict = _without_module_prefix(checkpoint.get("state_dict", checkpoint))
    model_dict = model.state_dict()
    matched = {
        key: value for key, value in state_dict.items() if key in model_dict and model_dict[key].size() == value.size()
    }
    if not matched:
        raise CheckpointMismatch(
            f"Cannot load {weight_path} (check the key names manually): "
            f"it has {list(state_dict)[:5]}, the model has {list(model_dict)[:5]}"
        )
    model.load_state_dict({**model_dict, **matched})
    print(f"Successfully loaded pretrained weights from {weight_path}")
    discarded = [key for key in state_dict if key not in matched]
    if discarded:
        print(f"Layers discarded due to unmatched keys or size: {discarded}")
