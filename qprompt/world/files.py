"""A few-shot data set of the world as files: drawn once, whole or not at all."""

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
RECIPE = 1  # to be raised with any change that draws other pixels
SPLIT_FILE = "split_zhou_TinyWorld.json"
# SHA-256 over the pixels of draw 0, to tell a machine that draws something else
PIXELS_OF_DRAW_0 = "9aa213692ef0341b19c351709c3ee3d5353650e0c7b3f40853e3acd323f09316"


def ensure_drawn(root: Path, number: int) -> Path:
    """Folder of draw `number` below `root`, drawn now if it is not there: ``images/<class>/*.png`` and a split file.

    It is drawn under a temporary name and renamed. Of concurrent runs one draws and the others wait. UserError for a
    negative number, for a folder that another version drew and for a root that cannot be written to.
    """
    if number < 0:
        raise UserError(f"DATASET.DRAW is {number}: expected 0 or more.")
    folder = root / "tiny_world" / f"draw_{number}"
    if not folder.exists():
        try:
            with hold(folder.with_name(f".{folder.name}.lock"), wait=True):
                if not folder.exists():  # another run may have drawn it meanwhile
                    logger.info("Drawing TinyWorld (draw %d) into %s", number, folder)
                    _draw(folder, number)
        except OSError as error:
            raise UserError(
                f"cannot draw TinyWorld into {folder}: {error.strerror}. Name another place with --root."
            ) from None
    try:
        found = json.loads((folder / "world.json").read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} holds no TinyWorld. Remove that folder, it is drawn again.") from None
    if found != RECIPE:
        raise UserError(
            f"{folder} was drawn by recipe {found}, this is {RECIPE}. Remove that folder, it is drawn again."
        )
    return folder


def _draw(folder: Path, number: int) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        temporary.mkdir()
        split: dict[str, list] = {part: [] for part in fewshot.COUNTS}
        digest = hashlib.sha256()
        for part, label, noun, index, picture in fewshot.pictures(number):
            name = fewshot.class_name(noun)
            path = f"{name.replace(' ', '_')}/{part}_{index:03d}.png"
            file = temporary / "images" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)
            split[part].append([path, label, name])
            digest.update(picture.tobytes())
        pixels = digest.hexdigest()
        if number == 0 and pixels != PIXELS_OF_DRAW_0:
            logger.warning(
                "This machine draws other pixels (SHA-256 %s): results cannot be compared with published ones.", pixels
            )
        (temporary / SPLIT_FILE).write_text(json.dumps(split, indent=0), encoding="utf-8")
        about = {"recipe": RECIPE, "draw": number, "pixels_sha256": pixels}
        (temporary / "world.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
