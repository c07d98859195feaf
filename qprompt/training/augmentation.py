"""Where images are resized, flipped and normalized (INPUT.AUGMENT): by the workers, or in batches on the device."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from qprompt.data.device_transforms import CropTransform, ImageBatch, check_one_view, transform_on_device_
from qprompt.errors import UserError
from qprompt.io.random_state import random_state_kept
from qprompt.runs.choices import choose_once

log = logging.getLogger(__name__)
_SIDES = ((500, 375), (60, 80), (333, 500), (640, 200))  # of the pictures that are compared


def place_transforms_(cfg: Any, loaders: Iterable[DataLoader | None], device: torch.device) -> str:
    """Change `loaders` in place if the device transforms their images; return "cpu" or "device".

    With INPUT.AUGMENT auto a GPU does it where its pixels equal those of Pillow and torchvision. A resumed run does it
    where it did before.

    Raises:
        UserError: INPUT.AUGMENT device with a transform that the device does not know.
    """
    present, where = [loader for loader in loaders if loader is not None], cfg.INPUT.AUGMENT
    if where == "auto":
        reasons: list[str] = []

        def choose() -> str:
            reasons.append(why_not(present, device))
            return "cpu" if reasons[0] else "device"

        where = choose_once(cfg.OUTPUT_DIR, "augment", choose, ("cpu", "device").__contains__, cfg.RESUME)
        reason = (reasons[0] or "its pixels equal Pillow's on this GPU") if reasons else "as when this run began"
        log.info("INPUT.AUGMENT auto: %s (%s)", where, reason)
    if where not in ("cpu", "device"):
        raise UserError(f"INPUT.AUGMENT is auto, cpu or device; got {where!r}.")
    if where == "device":
        for loader in present:
            transform_on_device_(loader)
    return where


def why_not(loaders: Iterable[DataLoader], device: torch.device) -> str:
    """Return why the device should not transform the images of `loaders`; "" if it should."""
    if device.type != "cuda":
        return "there is no GPU that would wait for the workers"
    for data in {id(loader.dataset): loader.dataset for loader in loaders}.values():
        try:
            check_one_view(data)
            equal = pixels_are_equal(data.transform, device)  # type: ignore[attr-defined]
        except UserError as error:
            return str(error).partition(": type ")[0]
        if not equal:
            return "on this GPU the pixels are not those of Pillow"
    return ""


def pixels_are_equal(transform: Any, device: torch.device) -> bool:
    """Return whether a transform gives the same bits on `device` as with Pillow, tried on a few pictures of noise.

    Raises:
        UserError: the device does not know the transform.
    """
    crop = CropTransform(transform)
    pictures = []
    for width, height in _SIDES:
        noise = np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), dtype=np.uint8)
        pictures.append(Image.fromarray(noise))
    with random_state_kept(cuda=False):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the devices too
        wanted = torch.stack([transform(picture) for picture in pictures])
        torch.default_generator.manual_seed(0)
        batch = ImageBatch([crop(picture) for picture in pictures], crop)
    return torch.equal(batch.to(device).cpu(), wanted)
