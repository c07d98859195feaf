"""Write a generated few-shot data set to files, once and atomically."""

import hashlib
import json
import logging
import shutil
from pathlib import Path

from PIL import Image

from qprompt.errors import UserError
from qprompt.io.locks import hold

from . import fewshot

logger = logging.getLogger(__name__)
RECIPE = 1  # increase it with every change of the pixels
SPLIT_FILE = "split_zhou_TinyWorld.json"
# The SHA-256 of the pixels of draw 0, to detect a machine that renders other pixels.
PIXELS_OF_DRAW_0 = "9aa213692ef0341b19c351709c3ee3d5353650e0c7b3f40853e3acd323f09316"


def ensure_drawn(root: Path, number: int) -> Path:
    """Return the folder of a generated data set; generate it first if it does not exist.

    It is written under a temporary name and renamed. Of concurrent runs, one writes and the others wait.

    Args:
        root: The data root.
        number: The draw, 0 or more.

    Returns:
        The folder, with ``images/<class>/*.png`` and SPLIT_FILE.

    Raises:
        UserError: `number` is negative, the folder is from another version, or `root` is not writable.
    """
    if number < 0:
        raise UserError(f"DATASET.DRAW is {number}: expected 0 or more.")
    folder = root / "tiny_world" / f"draw_{number}"
    if not folder.exists():
        try:
            with hold(folder.with_name(f".{folder.name}.lock"), wait=True):
                if not folder.exists():  # another run may have written it meanwhile
                    logger.info("Generating TinyWorld (draw %d) in %s", number, folder)
                    _write(folder, number)
        except OSError as error:
            raise UserError(
                f"cannot generate TinyWorld in {folder}: {error.strerror}. Choose another folder with --root."
            ) from None
    try:
        found = json.loads((folder / "world.json").read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is not a TinyWorld data set. Delete it: the next run generates it again.") from None
    if found != RECIPE:
        raise UserError(
            f"{folder} is from recipe {found}, expected {RECIPE}. Delete it: the next run generates it again."
        )
    return folder


def _write(folder: Path, number: int) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        temporary.mkdir()
        split: dict[str, list] = {part: [] for part in fewshot.COUNTS}
        digest = hashlib.sha256()
        for part, label, noun, index, image in fewshot.images(number):
            name = fewshot.class_name(noun)
            path = f"{name.replace(' ', '_')}/{part}_{index:03d}.png"
            file = temporary / "images" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
            split[part].append([path, label, name])
            digest.update(image.tobytes())
        pixels = digest.hexdigest()
        if number == 0 and pixels != PIXELS_OF_DRAW_0:
            logger.warning(
                "This machine renders other pixels (SHA-256 %s): results cannot be compared with published ones.",
                pixels,
            )
        (temporary / SPLIT_FILE).write_text(json.dumps(split, indent=0), encoding="utf-8")
        about = {"recipe": RECIPE, "draw": number, "pixels_sha256": pixels}
        (temporary / "world.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
