"""The data sets of the benchmark: folders, readers and sizes.

Sizes are those of CoOp's fixed splits (Zhou et al., 2022, appendix A).
"""

import random
from dataclasses import dataclass
from pathlib import Path

from qprompt.data import imagenet, readers
from qprompt.data.fewshot import Source
from qprompt.data.findings import check_command, prepare_command
from qprompt.data.items import Split
from qprompt.data.readers import Read
from qprompt.errors import UserError


@dataclass(frozen=True)
class Layout:
    """One data set of the benchmark.

    Attributes:
        name: The name in the registry.
        folder: The folder below the data root.
        images: The image folder below `folder`; item paths are relative to it.
        read: Reads the split from the official files.
        classes, train, val, test: The numbers of classes and of images in each part.
        needs: The official files that `read` needs.
        split_name: ``split_zhou_<split_name>.json``, if it exists, replaces them; empty: the official split is used.
        test_is_val: Whether the val images are the test images.
        test_only: Whether there are no training images.
        parts: The folders with images, if they are not `images`.
    """

    name: str
    folder: str
    images: str
    read: Read
    classes: int
    train: int
    val: int
    test: int
    needs: tuple[str, ...] = ()
    split_name: str = ""
    test_is_val: bool = False
    test_only: bool = False
    parts: tuple[str, ...] = ()

    @property
    def image_folders(self) -> tuple[str, ...]:
        """The folders below `folder` that hold images or class folders of images."""
        return self.parts or (self.images,)

    def split_file(self, root: Path) -> Path | None:
        """Return the path of the published split file; None if the official split is used."""
        return root / self.folder / f"split_zhou_{self.split_name}.json" if self.split_name else None

    def read_official(self, folder: Path, rng: random.Random) -> Split:
        """Read the split from the official files below `folder`.

        Raises:
            UserError: A file is missing or has unexpected content.
        """
        try:
            return self.read(folder, rng)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{folder}: cannot read the official files of {self.name} ({reason}).") from None

    def source(self, root: Path) -> Source:
        """Return the argument of `fewshot.load`.

        Raises:
            UserError: The folder or its image folder does not exist.
        """
        folder = root / self.folder
        if not folder.is_dir():
            raise UserError(
                f"{folder} does not exist: {self.name} needs a folder {self.folder!r} in the data root. "
                f"To get it: {prepare_command(self.name, root)}"
            )
        if not (folder / self.images).is_dir():
            raise UserError(
                f"{folder} has no folder {self.images!r}. To find the fault: {check_command(self.name, root)}"
            )
        return Source(
            image_dir=folder / self.images,
            read=lambda rng: self.read_official(folder, rng),
            split_file=self.split_file(root),
            cache_dir=None if self.test_only else folder / "split_fewshot",
            test_is_val=self.test_is_val,
            test_only=self.test_only,
        )


_RENAMED_CALTECH = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
_RENAMED_EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}
_PETS = ("annotations/trainval.txt", "annotations/test.txt")
_CARS = ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat")
_FLOWERS = ("imagelabels.mat", "cat_to_name.json")
_AIRCRAFT = ("variants.txt", "images_variant_train.txt", "images_variant_val.txt", "images_variant_test.txt")
_SUN = ("ClassName.txt", "Training_01.txt", "Testing_01.txt")
_UCF = tuple(f"ucfTrainTestlist/{name}.txt" for name in ("classInd", "trainlist01", "testlist01"))
_NAMES = ("classnames.txt",)
_V2 = "imagenetv2-matched-frequency-format-val"

_LAYOUTS = (
    Layout(
        "ImageNet", "imagenet", "images", imagenet.imagenet, 1000, 1_281_167, 50_000, 50_000,
        needs=_NAMES, test_is_val=True, parts=("images/train", "images/val"),
    ),
    Layout(
        "Caltech101", "caltech-101", "101_ObjectCategories",
        readers.class_folders("101_ObjectCategories", ("BACKGROUND_Google", "Faces_easy"), _RENAMED_CALTECH),
        100, 4_128, 1_649, 2_465, split_name="Caltech101",
    ),
    Layout(
        "OxfordPets", "oxford_pets", "images", readers.oxford_pets, 37, 2_944, 736, 3_669,
        needs=_PETS, split_name="OxfordPets",
    ),
    Layout(
        "StanfordCars", "stanford_cars", "", readers.stanford_cars, 196, 6_509, 1_635, 8_041,
        needs=_CARS, split_name="StanfordCars", parts=("cars_train", "cars_test"),
    ),
    Layout(
        "OxfordFlowers", "oxford_flowers", "jpg", readers.oxford_flowers, 102, 4_093, 1_633, 2_463,
        needs=_FLOWERS, split_name="OxfordFlowers",
    ),
    Layout(
        "Food101", "food-101", "images", readers.class_folders("images"), 101, 50_500, 20_200, 30_300,
        split_name="Food101",
    ),
    Layout(
        "FGVCAircraft", "fgvc_aircraft", "images", readers.fgvc_aircraft, 100, 3_334, 3_333, 3_333, needs=_AIRCRAFT,
    ),
    Layout("SUN397", "sun397", "SUN397", readers.sun397, 397, 15_880, 3_970, 19_850, needs=_SUN, split_name="SUN397"),
    Layout(
        "DescribableTextures", "dtd", "images", readers.class_folders("images"), 47, 2_820, 1_128, 1_692,
        split_name="DescribableTextures",
    ),
    Layout(
        "EuroSAT", "eurosat", "2750", readers.class_folders("2750", renamed=_RENAMED_EUROSAT),
        10, 13_500, 5_400, 8_100, split_name="EuroSAT",
    ),
    Layout(
        "UCF101", "ucf101", "UCF-101-midframes", readers.ucf101, 101, 7_639, 1_898, 3_783,
        needs=_UCF, split_name="UCF101",
    ),
    Layout("ImageNetV2", "imagenetv2", _V2, imagenet.imagenetv2, 1000, 0, 0, 10_000, needs=_NAMES, test_only=True),
    Layout(
        "ImageNetSketch", "imagenet-sketch", "images", imagenet.variant("images"), 1000, 0, 0, 50_889,
        needs=_NAMES, test_only=True,
    ),
    Layout(
        "ImageNetA", "imagenet-adversarial", "imagenet-a", imagenet.variant("imagenet-a"), 200, 0, 0, 7_500,
        needs=_NAMES, test_only=True,
    ),
    Layout(
        "ImageNetR", "imagenet-rendition", "imagenet-r", imagenet.variant("imagenet-r"), 200, 0, 0, 30_000,
        needs=_NAMES, test_only=True,
    ),
)  # fmt: skip

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _LAYOUTS}
