"""A classifier as an ONNX model, compared with PyTorch before it is written."""

import inspect
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from qprompt.errors import UserError
from qprompt.prompt_files.classifier import Classifier
from qprompt.prompted_clip import ConditionalCLIP, normalize

LARGEST_FILE = 2**31 - 2**20  # of protobuf; larger models have their weights in a second file
TOLERANCE = 1e-3  # in probability
_STORED = ("qprompt", "method", "backbone", "backbone_sha256")


class Agreement(NamedTuple):
    """How the exported model compares with PyTorch: the largest difference in probability, over how many pictures."""

    difference: float
    pictures: int


class _Probabilities(nn.Module):
    """(B, 3, H, W) -> (B, C), with the text features of the classes as a constant."""

    text_features: Tensor

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.model, self.clip_model = classifier.model, classifier.clip_model
        self.register_buffer("text_features", self.model.encode_classes(self.model.prompts()).detach())

    def forward(self, image: Tensor) -> Tensor:
        features = normalize(self.model.image_features(image, self.model.prompts()))
        return (self.model.logit_scale * features @ self.text_features.T).softmax(-1)


def exporter_is_current() -> bool:
    """Return whether ``torch.onnx.export`` takes ``dynamic_shapes`` (PyTorch 2.6; 2.4 does not)."""
    return "dynamic_shapes" in inspect.signature(torch.onnx.export).parameters


def check_exporter() -> None:
    """Raise UserError if this PyTorch has an older exporter."""
    if not exporter_is_current():
        raise UserError(
            f"PyTorch {torch.__version__} has an older ONNX exporter: type pip install --upgrade torch torchvision, in "
            "another environment if this one needs its PyTorch; prompt files work in both."
        )


def check_exportable(classifier: Classifier) -> None:
    """Raise UserError if text features are not constant."""
    if isinstance(classifier.model, ConditionalCLIP):
        raise UserError("CoCoOp's text features depend on the image, so they cannot be exported.")


def write_onnx(
    classifier: Classifier, path: str | os.PathLike[str], pictures: Any = None, halve: bool = False
) -> Agreement:
    """Write the classifier as a model from ``image`` (B, 3, H, W), preprocessed, to ``probabilities`` (B, C).

    Class names, preprocessing and the identity of the backbone are in the metadata of the model. If it has more than
    2 GB, its weights are in a second file, PATH.data.

    Args:
        classifier: On the CPU.
        path: Of the model.
        pictures: To compare with PyTorch on, as for `Classifier.predict`; by default generated ones.
        halve: Store weights that half precision holds exactly in half precision. The results stay the same.

    Raises:
        UserError: The model differs from PyTorch by more than `TOLERANCE`; nothing is written then.
    """
    check_exporter()
    check_exportable(classifier)
    path, module = Path(path), _Probabilities(classifier).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:32]}.") as folder:
        written = Path(folder) / path.name
        _export(classifier, module, written)
        if halve:
            _halve_(written)
        agreement = _compare(classifier, module, written, generated_pictures() if pictures is None else pictures)
        if not agreement.difference < TOLERANCE:
            raise UserError(
                f"the exported model differs from PyTorch by {agreement.difference:.1e} in probability: "
                f"{path} is not written."
            )
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the weights first
            os.replace(file, path.parent / file.name)
    return agreement


def generated_pictures() -> list[np.ndarray]:
    """Return pictures of three sizes: noise, a gradient, and coarse blocks."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    rows, columns = np.mgrid[0:256, 0:200]
    gradient = np.stack([rows, columns, (rows + columns) // 2], axis=-1).astype(np.uint8)
    blocks = rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)
    return [noise, gradient, np.asarray(Image.fromarray(blocks).resize((240, 320), Image.Resampling.NEAREST))]


def _export(classifier: Classifier, module: nn.Module, path: Path) -> None:
    image = torch.randn(2, 3, *classifier.preprocess.size, generator=torch.Generator().manual_seed(0))
    program: Any = torch.onnx.export(
        module,
        (image,),
        input_names=["image"],
        output_names=["probabilities"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
        dynamo=True,
        verbose=False,
    )
    about = {key: str(classifier.about[key]) for key in _STORED if key in classifier.about}
    about |= {"classes": "\n".join(classifier.classnames), "classnames": json.dumps(classifier.classnames)}
    program.model.metadata_props.update(about | {"preprocessing": json.dumps(classifier.preprocess.to_json())})
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(path, external_data=weights > LARGEST_FILE)


def _halve_(path: Path) -> None:
    """Store in half precision those weights that are the same there; a Cast makes them fp32 when they are loaded."""
    import onnx
    from onnx import numpy_helper

    if list(path.parent.glob("*.data")):
        return
    model = onnx.load(path)
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            name, short = weight.name, f"{weight.name}/half"
            weight.CopyFrom(numpy_helper.from_array(half, short))
            casts.append(onnx.helper.make_node("Cast", [short], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def _compare(classifier: Classifier, module: nn.Module, path: Path, pictures: Any) -> Agreement:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings about how it optimizes
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    difference, count = 0.0, 0
    for size in (2, 3):  # the model takes batches of any size
        count = 0
        for batch in classifier.batches(pictures, size):
            (got,) = session.run(["probabilities"], {"image": batch.numpy()})
            with torch.no_grad():
                difference = max(difference, float((torch.from_numpy(got) - module(batch)).abs().max()))
            count += len(batch)
    return Agreement(difference, count)
