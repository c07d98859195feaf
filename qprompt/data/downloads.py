"""The source of each data set: project pages, names and contents of archives."""

from typing import NamedTuple

from qprompt.data.layouts import LAYOUTS, Layout
from qprompt.errors import UserError, did_you_mean


class Archive(NamedTuple):
    """An archive as it is distributed.

    Attributes:
        name: The file name.
        inside: Folders in the archive; the files below the first one that exists are unpacked.
        to: The folder to unpack into, below the data set's folder.
    """

    name: str
    inside: tuple[str, ...] = ("",)
    to: str = ""


# CoOp's page links the split_zhou files, ImageNet's classnames.txt, Flowers' cat_to_name.json and UCF101's mid-frames.
SPLITS = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"

PAGES: dict[str, tuple[str, ...]] = {
    "ImageNet": ("https://image-net.org/download.php",),
    "Caltech101": ("https://data.caltech.edu/records/mzrjq-6wc02",),
    "OxfordPets": ("https://www.robots.ox.ac.uk/~vgg/data/pets/",),
    # The authors' page no longer exists; this thread lists replacements.
    "StanfordCars": ("https://github.com/pytorch/vision/issues/7545",),
    "OxfordFlowers": ("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",),
    "Food101": ("https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",),
    "FGVCAircraft": ("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",),
    "SUN397": ("https://vision.princeton.edu/projects/2010/SUN/",),
    "DescribableTextures": ("https://www.robots.ox.ac.uk/~vgg/data/dtd/",),
    "EuroSAT": ("https://github.com/phelber/EuroSAT",),
    "UCF101": ("https://www.crcv.ucf.edu/data/UCF101.php",),
    "ImageNetV2": ("https://github.com/modestyachts/ImageNetV2",),
    "ImageNetSketch": ("https://github.com/HaohanWang/ImageNet-Sketch",),
    "ImageNetA": ("https://github.com/hendrycks/natural-adv-examples",),
    "ImageNetR": ("https://github.com/hendrycks/imagenet-r",),
}

_V2 = "imagenetv2-matched-frequency-format-val"

# prepare.py handles ImageNet's archives (tars within a tar, separate labels).
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "Caltech101": (
        Archive("caltech-101.zip", ("caltech-101",)),
        Archive("101_ObjectCategories.tar.gz", ("101_ObjectCategories",), "101_ObjectCategories"),
    ),
    "OxfordPets": (
        Archive("images.tar.gz", ("images",), "images"),
        Archive("annotations.tar.gz", ("annotations",), "annotations"),
    ),
    "StanfordCars": (
        Archive("cars_train.tgz", ("cars_train",), "cars_train"),
        Archive("cars_test.tgz", ("cars_test",), "cars_test"),
        Archive("car_devkit.tgz", ("devkit",), "devkit"),
    ),
    "OxfordFlowers": (Archive("102flowers.tgz", ("jpg",), "jpg"),),
    "Food101": (Archive("food-101.tar.gz", ("food-101",)),),
    "FGVCAircraft": (Archive("fgvc-aircraft-2013b.tar.gz", ("fgvc-aircraft-2013b/data",)),),
    "SUN397": (Archive("SUN397.tar.gz", ("SUN397",), "SUN397"), Archive("Partitions.zip", ("Partitions", ""))),
    "DescribableTextures": (Archive("dtd-r1.0.1.tar.gz", ("dtd",)),),
    "EuroSAT": (
        Archive("EuroSAT.zip", ("2750", "EuroSAT/2750"), "2750"),
        Archive("EuroSAT_RGB.zip", ("EuroSAT_RGB",), "2750"),
    ),
    "UCF101": (
        Archive("UCF-101-midframes.zip", ("UCF-101-midframes",), "UCF-101-midframes"),
        Archive("UCF101TrainTestSplits-RecognitionTask.zip", ("ucfTrainTestlist",), "ucfTrainTestlist"),
    ),
    "ImageNetV2": (Archive("imagenetv2-matched-frequency.tar.gz", (_V2, "imagenetv2-matched-frequency"), _V2),),
    "ImageNetSketch": (Archive("ImageNet-Sketch.zip", ("sketch", "images"), "images"),),
    "ImageNetA": (Archive("imagenet-a.tar", ("imagenet-a",), "imagenet-a"),),
    "ImageNetR": (Archive("imagenet-r.tar", ("imagenet-r",), "imagenet-r"),),
}

IMAGENET_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz")


def archive_names(name: str) -> list[str]:
    """Return the file names of a data set's archives."""
    return [*(archive.name for archive in ARCHIVES.get(name, ())), *(IMAGENET_ARCHIVES if name == "ImageNet" else ())]


def loose_files(layout: Layout) -> tuple[list[str], list[str]]:
    """Return the files of a data set that are in no archive: those on its own page, and those on CoOp's (SPLITS)."""
    in_archive = any(archive.to == "" for archive in ARCHIVES.get(layout.name, ()))
    loose = [name for name in layout.needs if "/" not in name and not in_archive]
    shared = [name for name in loose if name in ("classnames.txt", "cat_to_name.json")]
    splits = [f"split_zhou_{layout.split_name}.json"] if layout.split_name else []
    return [name for name in loose if name not in shared], [*splits, *shared]


def find_layout(name: str) -> Layout:
    """Find a layout by the data set's name, its folder or its yaml file, ignoring case and punctuation.

    Raises:
        UserError: There is no such data set.
    """
    normalized = _normalize(name)
    for layout in LAYOUTS.values():
        if normalized in _spellings(layout):
            return layout
    raise UserError(f"no data set {name!r}.{did_you_mean(name, LAYOUTS)} Available: {', '.join(LAYOUTS)}.")


def _spellings(layout: Layout) -> set[str]:
    return {_normalize(name) for name in (layout.name, layout.folder, layout.split_name) if name}


def _normalize(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def image_folder_names(layout: Layout) -> set[str]:
    """Return the names under which the image folder is distributed, without those that many data sets use."""
    last = layout.images.rpartition("/")[2]
    inside = {
        name.rpartition("/")[2]
        for archive in ARCHIVES.get(layout.name, ())
        if archive.to == layout.images
        for name in archive.inside
    }
    return {name for name in {last, *inside} if name and name not in ("images", "jpg")}


def similar_folders(layout: Layout, names: list[str]) -> list[str]:
    """Return the `names` that differ from the data set's folder only in spelling."""
    return [name for name in names if name != layout.folder and _normalize(name) in _spellings(layout)]
