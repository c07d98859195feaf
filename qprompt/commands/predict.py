"""Classify images with a learned prompt.

The class names are those of the prompt file, or any others (--classes): a prompt is not tied to its classes. A folder
stands for all images in it and in its folders. Each result is printed as soon as it is known. An image that cannot be
read is named on standard error; the others are classified, and the exit code is 1.

Examples:
  qprompt predict pets.qprompt cat.jpg dog.jpg --top 2
  qprompt predict pets.qprompt pictures/ --csv > pictures.csv
  qprompt predict pets.qprompt cat.jpg --classes "cat,dog,rabbit"
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qprompt.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt predict``."""
    add = parser.add_argument
    add("file", help="prompt file")
    add("images", nargs="+", metavar="IMAGE|FOLDER", help="image files, or folders of them")
    add("--top", type=int, default=5, metavar="K", help="show the K most probable classes (default 5)")
    formats = parser.add_mutually_exclusive_group()
    for name, text in (
        ("csv", "print CSV: a line per image with label_1, probability_1, label_2, ..."),
        ("jsonl", "print a JSON object per line: an image with the names and probabilities of its classes"),
        ("json", "print JSON: a list of these objects"),
    ):
        formats.add_argument(f"--{name}", action="store_const", const=name, dest="format", default="text", help=text)
    add("--batch", type=int, default=32, help="number of images to encode at once (default 32)")
    add("--device", default="cpu", help="device to compute on: cpu (default), cuda or cuda:N")
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


def check_model_arguments(args: argparse.Namespace) -> None:
    """Raise UserError for files that are not there and wrong class names, before the long import of torch."""
    from qprompt.prompt_files.class_names import class_names
    from qprompt.prompt_files.paths import check_prompt_file

    check_prompt_file(args.file)
    if args.backbone_path and not Path(args.backbone_path).expanduser().exists():
        raise UserError(f"no file of backbone weights {args.backbone_path!r}, nor a folder.")
    if args.classes is not None:
        class_names(args.classes)


def classifier_of(args: argparse.Namespace, device: str = "cpu") -> Any:
    """Return the `Classifier` that the arguments describe, on a device."""
    from qprompt.prompt_files.classifier import load_classifier

    return load_classifier(args.file, args.classes, args.backbone, args.backbone_path, args.other_backbone, device)


def run(args: argparse.Namespace) -> int:
    """Print the most probable classes of each image; return 1 if one could not be read."""
    from qprompt.data.picture_paths import picture_paths
    from qprompt.io.logs import show_logs
    from qprompt.prompt_files.result_formats import FORMATS

    show_logs("stderr")
    if args.top < 1 or args.batch < 1:
        raise UserError(f"--top is {args.top} and --batch {args.batch}, expected at least 1")
    check_model_arguments(args)
    paths = picture_paths(args.images)

    from tqdm import tqdm

    classifier = classifier_of(args, args.device)
    write = FORMATS[args.format](min(args.top, len(classifier.classnames)))
    # The results show the progress where they go to the terminal.
    hidden = not sys.stderr.isatty() or sys.stdout.isatty()
    progress = tqdm(paths, unit="image", file=sys.stderr, disable=hidden)
    failed: list[str] = []
    print(write.head, end="")
    for batch, tensors in _batches(progress, classifier.preprocess, args.batch, failed):
        for path, prediction in zip(batch, classifier.predict(tensors, top=args.top), strict=True):
            print(write.result(path, prediction.ranking), end="")
        print(end="", flush=True)
    print(write.tail(), end="", flush=True)
    if failed:
        print(f"{len(failed)} of {len(paths)} images could not be read.", file=sys.stderr)
    return 1 if failed else 0


def _batches(paths: Any, preprocess: Any, size: int, failed: list[str]) -> Iterator[tuple[list[str], Any]]:
    """Yield paths and tensors (B, 3, H, W) of the images that can be read; name the others on standard error."""
    import torch
    from tqdm import tqdm

    from qprompt.data.images import ImageError, read_image

    read: dict[str, Any] = {}

    def batch() -> tuple[list[str], Any]:
        names, tensors = list(read), torch.stack(list(read.values()))
        read.clear()
        return names, tensors

    for path in paths:
        try:
            tensor = preprocess(read_image(path))
        except ImageError as error:
            failed.append(path)
            tqdm.write(f"qprompt: {error}", file=sys.stderr)
            continue
        if path in read:  # given twice
            yield batch()
        read[path] = tensor
        if len(read) == size:
            yield batch()
    if read:
        yield batch()
