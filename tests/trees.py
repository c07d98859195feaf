"""Small image trees in the real layouts of the 15 data sets of the benchmark.

`build(root, name)` makes one, the same on every machine. Class sizes vary, so that some classes have fewer images than
shots. The order of classes in split files is shuffled, so that the order of first appearance matters.
"""

import io
import json
import random
import re
from pathlib import Path

import numpy as np
from scipy.io import savemat

CLASSES = 7  # odd: base and new halves differ
EUROSAT = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"]
EUROSAT += ["Pasture", "PermanentCrop", "Residential", "River", "SeaLake"]
CALTECH = ["Faces", "Faces_easy", "Leopards", "Motorbikes", "accordion"]
CALTECH += ["airplanes", "ant", "barrel", "BACKGROUND_Google", "wild_cat"]
SYNSETS = {"n01440764": "tench", "n01443537": "goldfish", "n01484850": "great white shark", "n01491361": "tiger shark"}
SYNSETS |= {"n01494475": "hammerhead shark", "n01496331": "electric ray", "n01498041": "stingray"}


def jpeg(seed: int = 0, size: tuple[int, int] = (20, 16)) -> bytes:
    """A small JPEG of noise that depends on the seed."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


class Tree:
    """Writes files below `folder`; all images have the same `content`, which may be empty if none is decoded."""

    def __init__(self, folder: Path, content: bytes, seed: int):
        self.folder = folder
        self.content = content
        self.rng = random.Random(seed)

    def images(self, *paths: str) -> None:
        for path in paths:
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.content)

    def text(self, path: str, *lines: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def count(self, low: int = 12, high: int = 45) -> int:
        return self.rng.randint(low, high)

    def split(self, name: str, items: list[tuple[str, int, str]]) -> None:
        """Write a split_zhou file: classes in shuffled order, each part with at least one image of every class."""
        groups: dict[int, list] = {}
        for item in items:
            groups.setdefault(item[1], []).append(item)
        order = list(groups)
        self.rng.shuffle(order)
        parts: dict[str, list] = {"train": [], "val": [], "test": []}
        for label in order:
            group = groups[label]
            self.rng.shuffle(group)
            cut = [len(group) * 2 // 3, len(group) * 5 // 6]
            parts["train"] += group[: cut[0]]
            parts["val"] += group[cut[0] : cut[1]]
            parts["test"] += group[cut[1] :]
        (self.folder / f"split_zhou_{name}.json").write_text(json.dumps(parts), encoding="utf-8")


def _class_folders(tree: Tree, images: str, names: list[str], skip=(), renamed=None) -> list[tuple[str, int, str]]:
    items = []
    used = [name for name in sorted(names) if name not in skip]
    for name in names:
        files = [f"{name}/image_{k:04d}.jpg" for k in range(1, tree.count() + 1)]
        tree.images(*(f"{images}/{file}" for file in files))
        if name in used:
            items += [(file, used.index(name), (renamed or {}).get(name, name)) for file in files]
    return items


def caltech101(tree: Tree):
    renamed = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
    return _class_folders(tree, "101_ObjectCategories", CALTECH, ("BACKGROUND_Google", "Faces_easy"), renamed)


def eurosat(tree: Tree):
    return _class_folders(tree, "2750", EUROSAT)


def dtd(tree: Tree):
    return _class_folders(tree, "images", ["banded", "blotchy", "braided", "bubbly", "bumpy", "chequered", "cobwebbed"])


def food101(tree: Tree):
    return _class_folders(tree, "images", ["apple_pie", "baby_back_ribs", "baklava", "beef_tartare", "bibimbap"])


def oxford_pets(tree: Tree):
    breeds = ["Abyssinian", "american_bulldog", "Bengal", "english_cocker_spaniel", "Egyptian_Mau", "pug", "Sphynx"]
    items, parts = [], {"trainval": [], "test": []}
    for label, breed in enumerate(breeds):
        for k in range(1, tree.count() + 1):
            tree.images(f"images/{breed}_{k}.jpg")
            part = "trainval" if k <= 8 or k % 3 else "test"
            parts[part].append(f"{breed}_{k} {label + 1} {1 + label % 2} 1")
            items.append((f"{breed}_{k}.jpg", label, breed.lower()))
    for part, lines in parts.items():
        tree.text(f"annotations/{part}.txt", *lines)
    return items


def stanford_cars(tree: Tree):
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Audi TT RS Coupe 2012", "BMW M3 Coupe 2012"]
    names += ["Ram C-V Cargo Van Minivan 2012", "FIAT 500 Abarth 2012", "smart fortwo Convertible 2012"]
    items, fields = [], [("bbox_x1", object), ("class", object), ("fname", object)]
    for images, file in (
        ("cars_train", "devkit/cars_train_annos.mat"),
        ("cars_test", "cars_test_annos_withlabels.mat"),
    ):
        labels = [label for label in range(len(names)) for _ in range(tree.count())]
        tree.rng.shuffle(labels)
        rows = np.empty((1, len(labels)), dtype=fields)
        for k, label in enumerate(labels):
            rows[0, k] = (39, label + 1, f"{k + 1:05d}.jpg")
            tree.images(f"{images}/{k + 1:05d}.jpg")
            model, _, year = names[label].rpartition(" ")
            items.append((f"{images}/{k + 1:05d}.jpg", label, f"{year} {model}"))
        (tree.folder / "devkit").mkdir(exist_ok=True)
        savemat(tree.folder / file, {"annotations": rows})
    cells = np.empty((1, len(names)), dtype=object)
    cells[0, :] = names
    savemat(tree.folder / "devkit/cars_meta.mat", {"class_names": cells})
    return items


def oxford_flowers(tree: Tree):
    names = ["pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold"]
    labels = [label for label in range(len(names)) for _ in range(tree.count())]
    tree.rng.shuffle(labels)
    items = []
    for k, label in enumerate(labels, 1):
        tree.images(f"jpg/image_{k:05d}.jpg")
        items.append((f"image_{k:05d}.jpg", label, names[label]))
    savemat(tree.folder / "imagelabels.mat", {"labels": np.array([[label + 1 for label in labels]], dtype=np.uint8)})
    tree.text("cat_to_name.json", json.dumps({str(k): name for k, name in enumerate(names, 1)}))
    return items


def fgvc_aircraft(tree: Tree):
    variants = ["707-320", "727-200", "737-200", "A300B4", "Cessna 172", "F/A-18", "Tornado"]
    tree.text("variants.txt", *variants)
    number, items = 34958, []
    for part in ("train", "val", "test"):
        lines = []
        for label, name in enumerate(variants):
            for _ in range(tree.count()):
                number += 7919
                tree.images(f"images/{number:07d}.jpg")
                lines.append(f"{number:07d} {name}")
                items.append((f"{number:07d}.jpg", label, name))
        tree.rng.shuffle(lines)
        tree.text(f"images_variant_{part}.txt", *lines)
    return items


def sun397(tree: Tree):
    places = [
        "/a/abbey",
        "/a/airplane_cabin",
        "/b/balcony/exterior",
        "/b/balcony/interior",
        "/c/church/indoor",
        "/w/wave",
        "/y/yard",
    ]
    tree.text("ClassName.txt", *places)
    items, parts = [], {"Training_01": [], "Testing_01": []}
    for label, place in enumerate(places):
        for k in range(tree.count()):
            path = f"{place[1:]}/sun_a{tree.rng.randrange(16**8):08x}.jpg"
            tree.images(f"SUN397/{path}")
            parts["Testing_01" if k % 3 == 2 else "Training_01"].append("/" + path)
            items.append((path, label, " ".join(reversed(place.split("/")[2:]))))
    for part, lines in parts.items():
        tree.text(f"{part}.txt", *lines)
    return items


def ucf101(tree: Tree):
    actions = ["ApplyEyeMakeup", "Archery", "BabyCrawling", "BalanceBeam", "HandstandPushups", "TaiChi", "YoYo"]
    tree.text("ucfTrainTestlist/classInd.txt", *(f"{k} {action}" for k, action in enumerate(actions, 1)))
    items, train, test = [], [], []
    for label, action in enumerate(actions):
        name = "_".join(re.findall("[A-Z][^A-Z]*", action))
        for k in range(tree.count()):
            video = f"v_{action}_g{k // 4 + 1:02d}_c{k % 4 + 1:02d}"
            tree.images(f"UCF-101-midframes/{name}/{video}.jpg")
            items.append((f"{name}/{video}.jpg", label, name))
            if k % 3 == 2:
                test.append(f"{action}/{video}.avi")
            else:
                train.append(f"{action}/{video}.avi {label + 1}")
    tree.text("ucfTrainTestlist/trainlist01.txt", *train)
    tree.text("ucfTrainTestlist/testlist01.txt", *test)
    return items


def imagenet(tree: Tree):
    tree.text("classnames.txt", *(f"{synset} {name}" for synset, name in SYNSETS.items()))
    for position, synset in enumerate(SYNSETS):
        tree.images(*(f"images/train/{synset}/{synset}_{tree.rng.randrange(99999)}.JPEG" for _ in range(tree.count())))
        tree.images(*(f"images/val/{synset}/ILSVRC2012_val_{8 * k + position + 1:08d}.JPEG" for k in range(5)))


def imagenetv2(tree: Tree):
    # Upstream expects all thousand folders.
    tree.text("classnames.txt", *(f"n{label:08d} name {label}" for label in range(1000)))
    for label in range(1000):
        tree.images(f"imagenetv2-matched-frequency-format-val/{label}/0af3f1b55de791c4144e2fb6d7dfe96dfc22d3fc.jpeg")


def _synsets(images: str):
    def build(tree: Tree) -> None:
        # The variants with 200 classes have the names of all thousand.
        tree.text("classnames.txt", *(f"{synset} {name}" for synset, name in SYNSETS.items()))
        for synset in list(SYNSETS)[::2]:
            tree.images(*(f"{images}/{synset}/art_{k}.jpg" for k in range(tree.count(2, 9))))
        tree.text(f"{images}/README.txt", "not a class") if images != "images" else None

    return build


# name in the registry -> (folder below the root, builder, name of its split_zhou file)
DATASETS = {
    "ImageNet": ("imagenet", imagenet, None),
    "Caltech101": ("caltech-101", caltech101, "Caltech101"),
    "OxfordPets": ("oxford_pets", oxford_pets, "OxfordPets"),
    "StanfordCars": ("stanford_cars", stanford_cars, "StanfordCars"),
    "OxfordFlowers": ("oxford_flowers", oxford_flowers, "OxfordFlowers"),
    "Food101": ("food-101", food101, "Food101"),
    "FGVCAircraft": ("fgvc_aircraft", fgvc_aircraft, None),
    "SUN397": ("sun397", sun397, "SUN397"),
    "DescribableTextures": ("dtd", dtd, "DescribableTextures"),
    "EuroSAT": ("eurosat", eurosat, "EuroSAT"),
    "UCF101": ("ucf101", ucf101, "UCF101"),
    "ImageNetV2": ("imagenetv2", imagenetv2, None),
    "ImageNetSketch": ("imagenet-sketch", _synsets("images"), None),
    "ImageNetA": ("imagenet-adversarial", _synsets("imagenet-a"), None),
    "ImageNetR": ("imagenet-rendition", _synsets("imagenet-r"), None),
}


def build(root: Path, name: str, split: bool = True, content: bytes = b"") -> Path:
    """The tree of data set `name` below `root`, with or without its split_zhou file; returns its folder."""
    folder, builder, split_name = DATASETS[name]
    tree = Tree(Path(root) / folder, content, seed=list(DATASETS).index(name))
    tree.folder.mkdir(parents=True, exist_ok=True)
    items = builder(tree)
    if split and split_name:
        tree.split(split_name, items)
    return tree.folder
