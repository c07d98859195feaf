"""Export a learned prompt: as an ONNX model, a web page, text features, or QMaPLe's prompts without projections.

--onnx writes a model that maps images (B, 3, H, W), preprocessed, to probabilities (B, C). It contains the image
encoder with its prompts, and the text features of the classes as constants. Its metadata holds the class names and the
preprocessing. Before it is written, it is run with onnxruntime and compared with PyTorch, on the pictures of --check or
on generated ones. The weights of a model of more than 2 GB are in a second file, OUT.data.

--web writes a folder with a page that classifies pictures in the browser. It works from a disk and from any web
server, and loads nothing from elsewhere. It contains onnxruntime-web from its npm package, which npm fetches or
--runtime names.

--features writes an npz file with text_features (C, E) of unit length, logit_scale and classes.

--projected writes a smaller prompt file of QMaPLe: with the image prompts, and without the projections that compute
them from the text prompts. With --bits 32, the default, its logits are the same bit for bit. The new file holds prompts
of IVLP, so 'qprompt unpack --as ivlp' makes a checkpoint of it. It cannot be trained further as MaPLe.

Examples:
  qprompt export pets.qprompt --onnx pets.onnx --check pictures/
  qprompt export pets.qprompt --web pets_page
  qprompt export pets.qprompt --classes "cat,dog,rabbit" --features pets.npz
  qprompt export maple.qprompt --projected small.qprompt
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from qprompt.commands.predict import add_model_arguments, check_model_arguments, classifier_of
from qprompt.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt export``."""
    add = parser.add_argument
    add("file", help="prompt file")
    add("--onnx", metavar="OUT", help="file for the classifier (needs onnx, onnxscript and onnxruntime)")
    add("--web", metavar="DIR", help="new folder for a web page that classifies pictures (needs the same packages)")
    add("--runtime", metavar="PATH", default="", help="onnxruntime-web for --web: the file of 'npm pack', or a folder")
    add("--title", help="title of the page (default: the name of the prompt file)")
    add(
        "--check",
        nargs="+",
        metavar="IMAGE|FOLDER",
        help="compare the ONNX model with PyTorch on these pictures (default: generated ones)",
    )
    add("--features", metavar="OUT", help="npz file for the text features")
    add("--projected", metavar="OUT", help="prompt file for QMaPLe's projected prompts")
    add(
        "--bits",
        type=int,
        default=32,
        help="bits per weight of the projected image prompts: 32 (exact, default), 16, or 1 to 8",
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Write the requested files."""
    if not (args.onnx or args.web or args.features or args.projected):
        raise UserError("nothing to write: type --onnx OUT.onnx, --web DIR, --features OUT.npz or --projected OUT.")
    from qprompt.data.images import read_image
    from qprompt.data.picture_paths import picture_paths

    for option, wanted in (("--onnx", args.onnx), ("--web", args.web)):
        if wanted:
            _check_packages(option)
    check_model_arguments(args)
    if args.onnx and Path(args.onnx).is_dir():
        raise UserError(f"--onnx {args.onnx} is a folder: name a file, such as {Path(args.onnx) / 'model.onnx'}.")
    pictures = picture_paths(args.check) if args.check else None
    for picture in pictures or ():
        read_image(picture)  # a damaged one is an error, before the long work
    if args.projected:
        write_projected(args.file, args.projected, args.bits)
    if not (args.onnx or args.web or args.features):
        return
    runtime: Any = None
    if args.web:
        from qprompt.export.web_runtime import check_folder, find_runtime

        check_folder(args.web)
        runtime = find_runtime(args.runtime)
    classifier = classifier_of(args)
    try:
        if args.features:
            write_features(classifier, args.features)
        if args.onnx:
            from qprompt.export.onnx_model import write_onnx

            agreement = write_onnx(classifier, args.onnx, pictures)
            print(f"{args.onnx}: {_agrees(agreement, pictures)}")
        if args.web:
            from qprompt.export.web_page import write_page

            agreement = write_page(classifier, args.web, _title(args), runtime, pictures)
            print(f"{args.web}: open {Path(args.web) / 'index.html'} in a browser; {_agrees(agreement, pictures)}")
    except UserError as error:
        raise UserError(f"{args.file}: {error}") from None


def _check_packages(option: str) -> None:
    """Raise UserError if a package that exports or runs ONNX is not installed."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{option} needs {name}, which is not installed: pip install onnx onnxruntime onnxscript")


def _title(args: argparse.Namespace) -> str:
    stem = Path(args.file).stem
    return args.title or ("Picture classifier" if stem == "prompt" else stem.replace("_", " "))


def _agrees(agreement: Any, pictures: Any) -> str:
    what = "generated pictures" if pictures is None else "pictures"
    return (
        f"onnxruntime agrees with PyTorch within {agreement.difference:.1e} in probability "
        f"({agreement.pictures} {what})"
    )


def write_features(classifier: Any, path: str) -> None:
    """Write the text features of the classes, unless they depend on the image."""
    import numpy as np

    from qprompt.export.onnx_model import check_exportable
    from qprompt.io.files import atomic_open

    check_exportable(classifier)
    model, names = classifier.model, classifier.classnames
    features = model.encode_classes(model.prompts()).detach().numpy()
    with atomic_open(path) as file:
        np.savez(file, text_features=features, logit_scale=np.float32(model.logit_scale), classes=np.array(names))
    print(f"{path}: text features of {len(names)} classes, {features.shape[1]} wide")
    if model.prompts().image is not None:
        print("These prompts also change the image features: features of plain CLIP do not fit. Use --onnx.")


def write_projected(source: str, path: str, bits: int) -> None:
    """Write the projected prompts of `source` to `path` and print the size."""
    from qprompt.prompt_files.format import read_prompt_file, write_prompt_file
    from qprompt.prompt_files.inspection import inspect
    from qprompt.prompt_files.projection import project

    file = read_prompt_file(source)
    try:
        tensors = project(file, bits)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    about = {key: value for key, value in file.about.items() if key != "format"}
    write_prompt_file(path, tensors, {**about, "method": "QIVLP", "projected_from": about.get("method")})
    size = inspect(path)["file_bytes"]
    print(f"{path}: {size:,} bytes, {file.file_bytes / size:.1f} times smaller than {source}")
