"""Export a learned prompt: a classifier as ONNX, its text features, or QMaPLe's prompts without projections.

--onnx writes a model that maps images (B, 3, H, W), preprocessed as for CLIP, to probabilities (B, C). It contains the
image encoder with its prompts, and the text features of the classes as constants. Before it is written, it is run with
onnxruntime and compared with PyTorch.

--features writes an npz file with text_features (C, E) of unit length, logit_scale and classes.

--projected writes a smaller prompt file of QMaPLe: with the image prompts, and without the projections that compute
them from the text prompts. With --bits 32, the default, its logits are the same bit for bit. The new file holds prompts
of IVLP, so 'qprompt unpack --as ivlp' makes a checkpoint of it. It cannot be trained further as MaPLe.

Examples:
  qprompt export pets.qprompt --classes "cat,dog,rabbit" --onnx pets.onnx
  qprompt export maple.qprompt --projected small.qprompt
"""

import argparse
from pathlib import Path
from typing import Any

from qprompt.commands.predict import add_model_arguments
from qprompt.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt export``."""
    add = parser.add_argument
    add("file", help="prompt file")
    add("--onnx", metavar="OUT", help="file for the classifier (needs onnx, onnxscript and onnxruntime)")
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
    if args.projected:
        write_projected(args.file, args.projected, args.bits)
    if not (args.onnx or args.features):
        if not args.projected:
            raise UserError("nothing to write: type --onnx OUT.onnx, --features OUT.npz or --projected OUT.qprompt.")
        return
    if args.onnx:
        import_onnx()
    import numpy as np

    from qprompt.io.files import atomic_open
    from qprompt.prompt_files.classifier import load_classifier
    from qprompt.prompted_clip import ConditionalCLIP

    classifier = load_classifier(args.file, args.classes, args.backbone, args.backbone_path, args.other_backbone)
    model, names = classifier.model, classifier.classnames
    if isinstance(model, ConditionalCLIP):
        raise UserError(f"{args.file}: CoCoOp's text features depend on the image, so they cannot be exported.")
    if args.features:
        features = model.encode_classes(model.prompts()).detach().numpy()
        with atomic_open(args.features) as file:
            np.savez(file, text_features=features, logit_scale=np.float32(model.logit_scale), classes=np.array(names))
        print(f"{args.features}: text features of {len(names)} classes, {features.shape[1]} wide")
        if model.prompts().image is not None:
            print("These prompts also change the image features: features of plain CLIP do not fit. Use --onnx.")
    if args.onnx:
        error = write_onnx(model, names, Path(args.onnx))
        print(f"{args.onnx}: onnxruntime agrees with PyTorch within {error:.1e} in probability")


def write_projected(source: str, path: str, bits: int) -> None:
    """Write the projected prompts of `source` to `path` and print the size."""
    from qprompt.prompt_files.format import read_prompt_file, write_prompt_file
    from qprompt.prompt_files.packing import inspect
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


def import_onnx() -> tuple[Any, Any]:
    """Return the modules onnx and onnxruntime.

    Raises:
        UserError: one of them, or onnxscript, which torch exports with, is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as missing:
        raise UserError(
            f"--onnx needs {missing.name}, which is not installed: pip install onnx onnxruntime onnxscript"
        ) from None
    return onnx, onnxruntime


def write_onnx(model: Any, names: list[str], path: Path) -> float:
    """Export a classifier and compare it with PyTorch before it is written.

    Returns:
        The largest difference in probability.

    Raises:
        UserError: it is too large.
    """
    import torch

    from qprompt.io.files import atomic_open
    from qprompt.prompted_clip import normalize

    onnx, onnxruntime = import_onnx()

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.clip_model = model.clip_model
            self.register_buffer("text_features", model.encode_classes(model.prompts()).detach())

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            features = normalize(self.model.image_features(image, self.model.prompts()))
            return (self.model.logit_scale * features @ self.text_features.T).softmax(-1)

    classifier = Classifier().eval()
    size = model.clip_model.visual.input_resolution
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch", min=1)
    program: Any = torch.onnx.export(
        classifier,
        (image,),
        input_names=["image"],
        output_names=["probabilities"],
        dynamic_shapes={"image": {0: batch}},
        dynamo=True,
        verbose=False,
    )
    proto = program.model_proto
    proto.metadata_props.append(onnx.StringStringEntryProto(key="classes", value="\n".join(names)))
    data = proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference = 0.0
    for images in (image, torch.cat([image.flip(0), image[:1]])):
        (got,) = session.run(["probabilities"], {"image": images.numpy()})
        with torch.no_grad():
            difference = max(difference, float((torch.from_numpy(got) - classifier(images)).abs().max()))
    if not difference < 1e-3:
        raise UserError(
            f"the exported model differs from PyTorch by {difference:.1e} in probability: {path} is not written."
        )
    with atomic_open(path) as file:
        file.write(data)
    return difference
