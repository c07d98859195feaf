"""What can be done for a data set without the network: unpack, put ImageNet's val into class folders, copy, split."""

import csv
import logging
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qprompt.data import archives, downloads
from qprompt.data.layouts import LAYOUTS, Layout
from qprompt.data.readers import folders_in, images_in, read_lines, read_mat
from qprompt.data.split_file import publish
from qprompt.errors import UserError

logger = logging.getLogger(__name__)


def prepare(layout: Layout, root: Path, places: Sequence[Path]) -> None:
    """Unpack, copy and sort what lies in `places` into the data set's folder."""
    folder = root / layout.folder
    places = [*places, root, folder]
    for archive in downloads.ARCHIVES.get(layout.name, ()):  # an archive that held another one comes before it
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
    """Write a split_zhou file of one's own where the published one cannot be had."""
    file = layout.split_file(root)
    if file is None:
        raise UserError(f"{layout.name} has an official split: there is none to draw.")
    if file.exists():
        raise UserError(f"{file} is there already: move it away to draw another split.")
    split = layout.read_official(root / layout.folder, random.Random(seed))
    publish(file, {part: list(items) for part, items in split._asdict().items()})
    logger.info("Drew a split with seed %d: %s", seed, file)


def find(name: str, places: Sequence[Path]) -> Path | None:
    """The first file called `name` in one of the folders."""
    return next((place / name for place in places if (place / name).is_file()), None)


def _unpack(file: Path, target: Path, inside: Sequence[str], to: str) -> None:
    done = archives.unpack(file, target, inside, to)
    if not done.written and not done.kept:
        raise UserError(f"{file} holds nothing below {' or '.join(inside)}: is it another archive of that name?")
    logger.info("Unpacked %s: %s files written, %s already there", file, f"{done.written:,}", f"{done.kept:,}")


# ---- ImageNet: a tar of tars for train; val without class folders, its labels in the devkit


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
    if (file := find(val, places)) and not folders_in_or_none(folder / "images/val"):
        _unpack(file, folder / "images/val", ("",), "")
    if loose := images_in_or_none(folder / "images/val"):
        sort_val(folder / "images/val", loose, val_labels(folder / "images/val", places))


def _write_image(image: archives.Member, target: Path, archive: Path) -> bool:
    path = archives.relative(image.path, ("",), archive)
    return path is not None and archives.write(image, target / path, archive)


def folders_in_or_none(path: Path) -> list[str]:
    """Folders in `path`; none where it is not there."""
    return folders_in(path) if path.is_dir() else []


def images_in_or_none(path: Path) -> list[str]:
    """Images in `path`; none where it is not there."""
    return images_in(path) if path.is_dir() else []


def sort_val(folder: Path, images: Sequence[str], labels: Mapping[str, str]) -> None:
    """Move each image into the folder of its synset. Nothing is moved unless every image has a label."""
    unknown = [image for image in images if Path(image).stem not in labels]
    if unknown:
        raise UserError(f"{folder}: {len(unknown)} images have no label, e.g. {unknown[0]}. None was moved.")
    for image in images:
        target = folder / labels[Path(image).stem] / image
        if target.exists():
            raise UserError(f"{target} is there already: {folder / image} was not moved.")
        target.parent.mkdir(exist_ok=True)
        (folder / image).rename(target)
    classes = {labels[Path(image).stem] for image in images}
    logger.info("Moved %s images of %s into %s class folders", f"{len(images):,}", folder, f"{len(classes):,}")


def val_labels(val: Path, places: Sequence[Path]) -> dict[str, str]:
    """Synset of each val image by file name without suffix, from whichever list of labels there is."""
    for place in (*places, val):
        if (place / "valprep.sh").is_file():
            return dict(_valprep(place / "valprep.sh"))
        if (place / "LOC_val_solution.csv").is_file():
            with open(place / "LOC_val_solution.csv", encoding="utf-8", newline="") as file:
                return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
        devkit = place / "ILSVRC2012_devkit_t12"
        archive = place / f"{devkit.name}.tar.gz"
        if archive.is_file() and not devkit.is_dir():
            archives.unpack(archive, devkit, (devkit.name,))
        if devkit.is_dir():
            return _devkit(devkit / "data")
    raise UserError(
        f"{val} holds loose images and no list of labels is there. Put ILSVRC2012_devkit_t12.tar.gz "
        f"({downloads.PAGES['ImageNet'][0]}), LOC_val_solution.csv or valprep.sh into {places[-1]} and run this again."
    )


def _valprep(script: Path) -> Iterator[tuple[str, str]]:
    """Lines ``mv ILSVRC2012_val_00000293.JPEG n01440764/`` of the script that is passed around; nothing is run."""
    for line in read_lines(script):
        words = line.split()
        if len(words) == 3 and words[0] == "mv":
            yield Path(words[1]).stem, words[2].strip("/")


def _devkit(data: Path) -> dict[str, str]:
    """Line n of the ground truth is the devkit's own id of val image n; meta.mat gives the synset of an id."""
    synsets = {
        int(row["ILSVRC2012_ID"][0, 0]): str(row["WNID"][0]) for row in read_mat(data / "meta.mat", "synsets").ravel()
    }
    numbers = read_lines(data / "ILSVRC2012_validation_ground_truth.txt")
    return {f"ILSVRC2012_val_{n:08d}": synsets[int(number)] for n, number in enumerate(numbers, 1)}
