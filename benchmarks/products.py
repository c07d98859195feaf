#!/usr/bin/env python3
"""Linear layers with frozen weights, forward and backward: PyTorch's default library (MKL) and oneDNN, in the shapes of
ViT-B/16 and of the embedded CLIP.

    python benchmarks/products.py

The encoders choose between the two by CPU and size (qprompt/prompted_clip/onednn_linear.py); this measures both. Then
32 images of 224 pixels go through ViT-B/16, in one pass and in passes small enough for the CPU's cache.
"""

import argparse
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from measure import save, side_by_side

from qprompt.backbones.load import build_clip
from qprompt.backbones.random_weights import random_state_dict
from qprompt.prompted_clip import image, onednn_linear

WIDTHS = {"tiny": 128, "text": 512, "images": 768}
ROWS = (
    ("tiny", 16),
    ("tiny", 64),
    ("tiny", 185),
    ("text", 48),
    ("text", 138),
    ("text", 455),
    ("text", 4505),
    ("images", 4 * 197),
    ("images", 8 * 197),
)


def measure(kind, rows, seconds):
    width = WIDTHS[kind]
    row = {"of": kind, "rows": rows}
    for name, (n, k) in {"up": (4 * width, width), "down": (width, 4 * width)}.items():
        x, weight, bias = torch.randn(rows, k, requires_grad=True), torch.randn(n, k), torch.randn(n)
        grad, work = torch.randn(rows, n), 4 * rows * n * k

        def both_ways(multiply, x=x, weight=weight, bias=bias, grad=grad):
            return lambda: torch.autograd.grad(multiply(x, weight, bias), x, grad)

        calls = {"torch": both_ways(F.linear), "onednn": both_ways(onednn_linear._Linear.apply)}
        timed = side_by_side(calls, min(2000, max(5, int(seconds * 5e10 / work))))
        row |= {f"{name}_{library}": work / median for library, (median, _, _) in timed.items()}
    return row


@torch.no_grad()
def image_parts(images=32, repeat=1):
    """Return seconds of `encode_image` for several numbers of images per pass."""
    clip_model = build_clip(random_state_dict("ViT-B/16"), "ViT-B/16")
    size, tokens = clip_model.visual.input_resolution, len(clip_model.visual.positional_embedding)
    pixels = torch.randn(images, 3, size, size)

    def at_once(count):
        with mock.patch.object(image, "ROWS", count * tokens):
            image.encode_image(clip_model, pixels)

    timed = side_by_side({count: partial(at_once, count) for count in (4, 10, images)}, repeat)
    return {count: median for count, (median, _, _) in timed.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="per size (default: %(default)s)")
    args = parser.parse_args()
    rows = [measure(kind, rows, args.seconds) for kind, rows in ROWS]
    print(f"{torch.get_num_threads()} thread(s); the encoders use oneDNN here: {onednn_linear.onednn_is_faster()}")
    print("GFLOP/s        rows    up: torch  oneDNN        down: torch  oneDNN")
    for r in rows:
        cells = [f"{r[f'{n}_torch'] / 1e9:10.0f} {r[f'{n}_onednn'] / 1e9:8.0f}" for n in ("up", "down")]
        ratios = [f"{r[f'{n}_onednn'] / r[f'{n}_torch']:.1f}x" for n in ("up", "down")]
        print(f"{r['of']:8} {r['rows']:8,}  {cells[0]} {ratios[0]}  {cells[1]} {ratios[1]}")
    parts = image_parts()
    print("images per pass: " + ", ".join(f"{count}: {seconds:.2f} s" for count, seconds in parts.items()))
    save("products", rows, image_parts_s=parts)


if __name__ == "__main__":
    main()
