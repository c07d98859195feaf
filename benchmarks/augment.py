#!/usr/bin/env python3
"""Augmentation in the workers (torchvision on Pillow images) and in batches on the device (INPUT.AUGMENT device).

    OMP_NUM_THREADS=1 python benchmarks/augment.py
    OMP_NUM_THREADS=1 python benchmarks/augment.py --width 640 --height 480 --batch 100

Images of noise, results of 224 x 224 pixels, bicubic. "train" is random_resized_crop, random_flip and normalize; "test"
resizes and crops the centre. Times are per image: "decode" reads a JPEG, "kept" reads its pixels from the decode cache.
After that, "torchvision" is the work of a worker by default, "worker" its work with INPUT.AUGMENT device, and "device"
the work of the device. Without a GPU the device is the CPU, which does not show how long a GPU takes. "equal" compares
the results of both ways.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms as T
from measure import save, side_by_side
from PIL import Image
from torchvision.transforms import InterpolationMode

from qprompt.data.decode_cache import DecodeCache
from qprompt.data.device_transforms import CropTransform, ImageBatch
from qprompt.data.images import read_image

PIXELS = (224, 224)


def transforms():
    end = [T.ToTensor(), T.Normalize([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])]
    bicubic = InterpolationMode.BICUBIC
    crop = T.RandomResizedCrop(PIXELS, scale=(0.08, 1.0), interpolation=bicubic)
    return {
        "train": T.Compose([crop, T.RandomHorizontalFlip(), *end]),
        "test": T.Compose([T.Resize(max(PIXELS), interpolation=bicubic), T.CenterCrop(PIXELS), *end]),
    }


def make_images(folder, args):
    """Yield paths of JPEGs: large spots with fine noise, which take about as long to decode as photographs."""
    rng = np.random.default_rng(0)
    for number in range(args.batch):
        spots = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((args.width, args.height))
        noise = rng.normal(0, 8, (args.height, args.width, 3))
        path = Path(folder) / f"{number}.jpg"
        Image.fromarray((np.asarray(spots) + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        yield str(path)


def measure(name, transform, paths, repeat):
    images = [read_image(path) for path in paths]
    cache = DecodeCache(paths, 10**9)
    for path, image in zip(paths, images, strict=True):
        cache.put(path, image)
    draw = CropTransform(transform)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def seeded(call):
        torch.manual_seed(1)  # the same crops in every call
        return call()

    def views():
        return ImageBatch([draw(image) for image in images], draw)

    batch = seeded(views)
    plain = seeded(lambda: torch.stack([transform(image) for image in images]))
    equal = torch.equal(plain, batch.to(device).cpu())
    calls = {
        "decode": lambda: [read_image(path) for path in paths],
        "kept": lambda: [cache.get(path) for path in paths],
        "torchvision": lambda: seeded(lambda: torch.stack([transform(image) for image in images])),
        "worker": lambda: seeded(views),
        "device": lambda: batch.to(device),
    }
    timed = side_by_side(calls, repeat)
    row = {"transform": name, "batch": len(paths), "width": images[0].width, "height": images[0].height}
    row |= {"device": device, "equal": equal}
    row |= {"kB": {"torchvision": plain.nbytes / len(paths) / 1e3}}
    row["kB"]["worker"] = sum(tensor.nbytes for tensor in batch.tensors.values()) / len(paths) / 1e3
    names = ("median", "fastest", "slowest")
    per_image = {k: {n: 1e3 * s / len(paths) for n, s in zip(names, three, strict=True)} for k, three in timed.items()}
    return row | {"ms_an_image": per_image}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = list(make_images(folder, args))
        for name, transform in transforms().items():
            row = measure(name, transform, paths, args.repeat)
            rows.append(row)
            print(f"{name}: {args.batch} images of {args.width} x {args.height}, equal: {row['equal']}")
            for key, ms in row["ms_an_image"].items():
                handed = f", {row['kB'][key]:.0f} kB per image" if key in row["kB"] else ""
                print(f"  {key:12} {ms['median']:6.2f} ms ({ms['fastest']:.2f} to {ms['slowest']:.2f}){handed}")
    if not torch.cuda.is_available():
        print("There is no GPU here: 'device' is the CPU.")
    save("augment", rows, ("transform", "batch", "width", "height"))


if __name__ == "__main__":
    main()
