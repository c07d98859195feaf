"""Classify images with a learned prompt, for any class names.

A prompt is not tied to the classes that it was learned on.

Example:
  qprompt predict pets.qprompt cat.jpg dog.jpg --classes "cat,dog,rabbit" --top 2
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt predict``."""
    add = parser.add_argument
    add("file", help="prompt file")
    add("images", nargs="+", metavar="IMAGE", help="image files")
    add("--top", type=int, default=5, metavar="K", help="show the K most probable classes (default 5)")
    add(
        "--json",
        action="store_true",
        help="print JSON: a list of images with the names and probabilities of their classes",
    )
    add("--batch", type=int, default=32, help="number of images to encode at once (default 32)")
    add_model_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments about the model, which ``qprompt predict`` and ``qprompt export`` share."""
    add = parser.add_argument
    add(
        "--classes",
        help="class names, e.g. 'cat,dog', or a file with one per line (default: those that the prompt file holds)",
    )
    add(
        "--backbone",
        default="",
        help="name of the backbone, if the prompt file does not contain it or uses another name",
    )
    add(
        "--backbone-path",
        default="",
        metavar="FILE",
        help="file with the weights of the backbone, instead of the named ones",
    )
    add(
        "--other-backbone",
        action="store_true",
        help="accept other backbone weights than those that the prompt was learned with",
    )
    add("--device", default="cpu", help="device to compute on: cpu (default), cuda, ...")


def run(args: argparse.Namespace) -> None:
    """Print the most probable classes of each image."""
    import torch

    from qprompt.errors import UserError
    from qprompt.prompt_files.classifier import load_classifier, read_images

    if args.top < 1 or args.batch < 1:
        raise UserError(f"--top is {args.top} and --batch {args.batch}, expected at least 1")
    model = load_classifier(
        args.file, args.classes, args.backbone, args.backbone_path, args.other_backbone, args.device
    )
    results = []
    names = model.classnames
    for start in range(0, len(args.images), args.batch):
        paths = args.images[start : start + args.batch]
        with torch.no_grad():
            probabilities = model(read_images(paths, model.clip_model).to(args.device)).softmax(-1).cpu()
        for path, row in zip(paths, probabilities, strict=True):
            best = row.topk(min(args.top, len(names)))
            classes = [
                {"name": names[i], "probability": round(p, 6)}
                for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            results.append({"image": path, "classes": classes})
    if args.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
        return
    for result in results:
        print(result["image"])
        for entry in result["classes"]:
            print(f"  {entry['probability']:8.2%}  {entry['name']}")
