"""What a checkpoint holds besides the model, so that a resumed run is the run that was not interrupted."""

# ruff: noqa: NPY002 (numpy's global random state is the one that Dassl's seed sets)

import random
from typing import cast

import numpy as np
import torch

from qprompt.runs import identity

# Settings that may differ between a run and its resumption: they change where and how, not what is trained.
FREE_TO_CHANGE = (*identity.WITHOUT_EFFECT, "USE_CUDA", "DATALOADER.TEST", "TRAIN", "TEST")


def random_states():
    """The states of python's, numpy's and torch's generators (each CUDA device's too) as plain values."""
    name, keys, *rest = cast(tuple, np.random.get_state(legacy=True))
    states = {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states):
    """Set the generators to what `random_states` returned; devices that are not here are passed over."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available():
        for device, state in enumerate(states.get("cuda", [])[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state.cpu(), device)


def _flat(node, prefix=""):
    for key, value in node.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{path}.")
        else:
            yield path, list(value) if isinstance(value, tuple) else value


def plain_config(cfg):
    """Every setting that decides what is trained, as ``{"OPTIM.LR": 0.002, ...}``."""
    return {
        key: value
        for key, value in _flat(cfg)
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
    }


def config_differences(saved, cfg):
    """``["OPTIM.LR was 0.002 and is 0.5", ...]``; settings that only one of them knows are passed over."""
    now = plain_config(cfg)
    changed = [key for key in saved if key in now and not identity.alike(key, saved[key], now[key])]
    return [f"{key} was {saved[key]!r} and is {now[key]!r}" for key in changed]
