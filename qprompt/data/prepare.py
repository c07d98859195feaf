"""Prepare downloaded data sets: unpack archives, copy lists, sort ImageNet's val images, draw a split."""

import csv
import logging
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qprompt.data import archives, downloads
from qprompt.data.layouts import LAYOUTS, Layout
from qprompt.data.readers import folders_in, images_in, read_lines, read_mat
from qprompt.data.split_file import write_new
from qprompt.errors import UserError
from qprompt.io.text import read_text

logger = logging.getLogger(__name__)


def prepare(layout: Layout, root: Path, places: Sequence[Path]) -> None:
    """Unpack, copy and sort the files of a data set into its folder below `root`.

    Existing files are not overwritten, and archives are not removed.

    Args:
        layout: The data set.
        root: The data root.
        places: Folders with downloaded files; `root` and the data set's folder are searched too.

    Raises:
        UserError: An archive is damaged or unexpected, or a file exists with other content.
    """
    folder = root / layout.folder
    places = [*places, root, folder]
    for archive in downloads.ARCHIVES.get(layout.name, ()):  # in this order: the first may contain the second
        if file := find(archive.name, places):
            _unpack(file, folder, archive.inside, archive.to)
    if layout.name == "ImageNet":
        _imagenet(folder, places)
    names = [name for name in layout.needs if "/" not in name]
    split_file = layout.split_file(root)
    for name in [*names, *([split_file.name] if split_file else [])]:
        source = find(name, places)
        if layout.test_only and not source:
            source = find(name, [root / LAYOUTS["ImageNet"].folder])
        if source and not (folder / name).exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
            logger.info("Copied %s to %s", source, folder)


def draw_split(layout: Layout, root: Path, seed: int) -> None:
    """Write a random split file for a data set whose published split is not available.

    Raises:
        UserError: The data set has an official split, or the file exists.
    """
    file = layout.split_file(root)
    if file is None:
        raise UserError(f"{layout.name} has an official split: type the command without --draw-split.")
    if file.exists():
        raise UserError(f"{file} exists: move it away to draw another split.")
    split = layout.read_official(root / layout.folder, random.Random(seed))
    write_new(file, {part: list(items) for part, items in split._asdict().items()})
    logger.info("Drew a split with seed %d: %s", seed, file)


def find(name: str, places: Sequence[Path]) -> Path | None:
    """Return the first file called `name` in the folders `places`."""
    return next((place / name for place in places if (place / name).is_file()), None)


def _unpack(file: Path, target: Path, inside: Sequence[str], to: str) -> None:
    done = archives.unpack(file, target, inside, to)
    if not done.written and not done.existing:
        raise UserError(f"{file} has no folder {' or '.join(inside)}: is it another archive with the same name?")
    logger.info("Unpacked %s: %s files written, %s already there", file, f"{done.written:,}", f"{done.existing:,}")


# ---- ImageNet: train is a tar of tars; val has no class folders, its labels are in the devkit


def _imagenet(folder: Path, places: Sequence[Path]) -> None:
    train, val, _ = downloads.IMAGENET_ARCHIVES
    if file := find(train, places):
        with archives.members(file) as synsets:
            for synset in synsets:
                name = archives.relative(synset.path, ("",), file) or ""
                target = folder / "images/train" / name.removesuffix(".tar")
                with synset.open() as stream, archives.members(Path(name), stream) as images:
                    count = sum(_write_image(image, target, file) for image in images)
                if count:
                    logger.info("Unpacked %s: %s files written", name, f"{count:,}")
    if (file := find(val, places)) and not _folders_in(folder / "images/val"):
        _unpack(file, folder / "images/val", ("",), "")
    if loose := _images_in(folder / "images/val"):
        sort_val(folder / "images/val", loose, val_labels(folder / "images/val", places))


def _write_image(image: archives.Member, target: Path, archive: Path) -> bool:
    path = archives.relative(image.path, ("",), archive)
    return path is not None and archives.write(image, target / path, archive)


def _folders_in(path: Path) -> list[str]:
    return folders_in(path) if path.is_dir() else []


def _images_in(path: Path) -> list[str]:
    return images_in(path) if path.is_dir() else []


def sort_val(folder: Path, images: Sequence[str], labels: Mapping[str, str]) -> None:
    """Move each image into the folder of its synset.

    Args:
        folder: The folder with the images.
        images: Their file names.
        labels: The synset by file name without suffix.

    Raises:
        UserError: An image has no label (then none is moved), or the target exists.
    """
    unknown = [image for image in images if Path(image).stem not in labels]
    if unknown:
        raise UserError(f"{folder}: {len(unknown)} images have no label, for example {unknown[0]}. No image was moved.")
    for image in images:
        target = folder / labels[Path(image).stem] / image
        if target.exists():
            raise UserError(f"{target} exists: {folder / image} was not moved.")
        target.parent.mkdir(exist_ok=True)
        (folder / image).rename(target)
    classes = {labels[Path(image).stem] for image in images}
    logger.info("Moved %s images of %s into %s class folders", f"{len(images):,}", folder, f"{len(classes):,}")


def val_labels(val: Path, places: Sequence[Path]) -> dict[str, str]:
    """Read the synset of each val image, by file name without suffix, from the first list of labels that exists.

    Args:
        val: The folder with the images.
        places: Folders to search; the last one is the data set's.

    Raises:
        UserError: There is no list of labels.
    """
    for place in (*places, val):
        if (place / "valprep.sh").is_file():
            return dict(_valprep(place / "valprep.sh"))
        if (place / "LOC_val_solution.csv").is_file():
            rows = csv.DictReader(read_text(place / "LOC_val_solution.csv").splitlines())
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
        devkit = place / "ILSVRC2012_devkit_t12"
        archive = place / f"{devkit.name}.tar.gz"
        if archive.is_file() and not devkit.is_dir():
            archives.unpack(archive, devkit, (devkit.name,))
        if devkit.is_dir():
            return _devkit(devkit / "data")
    raise UserError(
        f"{val} holds images without class folders, and there is no list of their labels. Put one of "
        f"ILSVRC2012_devkit_t12.tar.gz ({downloads.PAGES['ImageNet'][0]}), LOC_val_solution.csv or valprep.sh into "
        f"{places[-1]} and run the command again."
    )


def _valprep(script: Path) -> Iterator[tuple[str, str]]:
    """Parse lines such as ``mv ILSVRC2012_val_00000293.JPEG n01440764/``; the script is not run."""
    for line in read_lines(script):
        words = line.split()
        if len(words) == 3 and words[0] == "mv":
            yield Path(words[1]).stem, words[2].strip("/")


def _devkit(data: Path) -> dict[str, str]:
    """Line n of the ground truth is the devkit's id of the class of val image n; meta.mat maps ids to synsets."""
    synsets = {
        int(row["ILSVRC2012_ID"][0, 0]): str(row["WNID"][0]) for row in read_mat(data / "meta.mat", "synsets").ravel()
    }
    numbers = read_lines(data / "ILSVRC2012_validation_ground_truth.txt")
    return {f"ILSVRC2012_val_{n:08d}": synsets[int(number)] for n, number in enumerate(numbers, 1)}
