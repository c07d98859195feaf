"""What makes a reported test accuracy too high, and has to be said beside it."""

from typing import Any

from yacs.config import CfgNode


def leaks(cfg: CfgNode, dataset: Any) -> list[str]:
    """Return a sentence for each way in which the images that are reported took part in training or in a choice.

    Args:
        cfg: of the run.
        dataset: a Dassl data set, with ``train_x``, ``val`` and ``test``.
    """
    parts = ("train_x", "val", "test")
    train, val, test = ({item.impath for item in getattr(dataset, part, None) or ()} for part in parts)
    # Like Dassl: without validation images, "val" is the test images.
    chosen_on = val or test
    reported = chosen_on if cfg.TEST.SPLIT == "val" else test
    found = []
    if cfg.TEST.FINAL_MODEL == "best_val" and (both := chosen_on & reported):
        found.append(
            f"the epoch was chosen on {_share(both, reported)} that are reported (TEST.FINAL_MODEL best_val): "
            "the accuracy is too high"
        )
    if both := train & reported:
        found.append(f"{_share(both, reported)} that are reported are training images: the accuracy is too high")
    return found


def _share(some: set[str], every: set[str]) -> str:
    images = f"{len(every)} image{'s' if len(every) > 1 else ''}"
    return f"the {images}" if some == every else f"{len(some)} of the {images}"
