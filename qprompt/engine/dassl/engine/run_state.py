"""The settings that decide what is trained: a run resumes only from a checkpoint with the same ones."""

from qprompt.io.nested import flatten, to_dict

# Settings and groups of settings that change where and how a run trains, but not what it trains.
WITHOUT_EFFECT = (
    "OUTPUT_DIR",
    "RESUME",
    "VERBOSE",
    "USE_CUDA",
    "TRAIN",
    "TEST",
    "DATASET.ROOT",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.TEST",
)


def training_settings(cfg, without_effect=()):
    """Return every setting that decides what is trained, as ``{"OPTIM.LR": 0.002, ...}``.

    Args:
        cfg: the config.
        without_effect: dotted names of further settings or groups to leave out.
    """
    left_out = (*WITHOUT_EFFECT, *without_effect)
    return {
        key: value
        for key, value in flatten(to_dict(cfg)).items()
        if not any(key == name or key.startswith(f"{name}.") for name in left_out)
    }


def setting_differences(saved, now, same):
    """Return ``["OPTIM.LR was 0.002 and is 0.5", ...]``; settings that only one of the two has are ignored.

    Args:
        saved: `training_settings` of the checkpoint.
        now: `training_settings` of the run that resumes from it.
        same: function of a setting's name and its two values.
    """
    changed = [key for key in saved if key in now and not same(key, saved[key], now[key])]
    return [f"{key} was {saved[key]!r} and is {now[key]!r}" for key in changed]
