"""`Classifier`: a prompt file and a CLIP model, from pictures to class names and probabilities."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qprompt.backbones import ClipModel, Identity, load_clip
from qprompt.data.images import read_image
from qprompt.data.preprocessing import Preprocessing
from qprompt.errors import UserError, did_you_mean
from qprompt.prompt_files.class_names import ClassNames, class_names
from qprompt.prompt_files.format import PromptFile, read_prompt_file, write_prompt_file
from qprompt.prompt_files.model import prompted_clip
from qprompt.prompt_files.pictures import batches
from qprompt.prompted_clip import PromptedCLIP, describe_no_words, describe_same_prompts, normalize
from qprompt.runs.devices import check_device

log = logging.getLogger(__name__)
BATCH = 100  # CoOp's and MaPLe's test batch: the same batches give the same bits as the run's own evaluation


class Prediction(NamedTuple):
    """The classes of a picture.

    Attributes:
        label: The most probable class.
        probability: Its probability, 0 to 1.
        ranking: (class, probability) of the most probable classes, the first one first.
    """

    label: str
    probability: float
    ranking: tuple[tuple[str, float], ...]


class Classifier:
    """Classifies pictures with a learned prompt; `load_classifier` makes one from a prompt file.

    Wherever a method takes pictures, these can be one or any number of PIL images, paths, uint8 arrays (H, W, 3), or
    one tensor (B, 3, H, W) of pictures that are preprocessed already. They are read and encoded in batches.

    Attributes:
        model: From preprocessed pictures (B, 3, H, W) to logits (B, C).
        classnames: Of the C classes.
        preprocess: From a PIL image to a tensor (3, H, W), as in the test of the run.
        about: The metadata of the prompt file.
    """

    def __init__(self, model: PromptedCLIP, classnames: Sequence[str], preprocess: Preprocessing, file: PromptFile):
        self.model, self.classnames, self.preprocess = model, list(classnames), preprocess
        self.about, self._tensors = file.about, file.tensors
        self.payload_bytes = sum(tensor.payload_bytes for tensor in file.tensors.values())

    @property
    def clip_model(self) -> ClipModel:
        """The backbone."""
        return self.model.clip_model

    @property
    def device(self) -> torch.device:
        """Where pictures are encoded."""
        return self.clip_model.token_embedding.weight.device

    @property
    def accuracy(self) -> float | None:
        """Test accuracy in percent, if the file says it of these classes."""
        same = self.about.get("classnames") == self.classnames
        return self.about.get("metrics", {}).get("accuracy") if same else None

    def batches(self, pictures: Any, batch_size: int = BATCH) -> Iterator[Tensor]:
        """Yield the pictures, preprocessed: tensors (B, 3, H, W) with B up to `batch_size`."""
        return batches(pictures, self.preprocess, batch_size)

    def predict(self, pictures: Any, top: int = 5, batch_size: int = BATCH) -> list[Prediction]:
        """Return the most probable classes of each picture.

        Args:
            pictures: See the class. One picture gives a list of one prediction.
            top: How many classes `Prediction.ranking` holds at most.
            batch_size: Pictures to encode at once.

        Raises:
            UserError: A picture cannot be read, or is of an unknown kind.
        """
        if top < 1:
            raise UserError(f"top is {top}, expected at least 1.")
        predictions = []
        for logits in self._logits(pictures, batch_size):
            best = logits.softmax(-1).topk(min(top, len(self.classnames)))
            for probabilities, labels in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                names = (self.classnames[label] for label in labels)
                ranking = tuple(zip(names, probabilities, strict=True))
                predictions.append(Prediction(*ranking[0], ranking))
        return predictions

    def predict_proba(self, pictures: Any, batch_size: int = BATCH) -> np.ndarray:
        """Return the probabilities (B, C), fp32."""
        found = [logits.softmax(-1).cpu().numpy() for logits in self._logits(pictures, batch_size)]
        return np.concatenate([np.zeros((0, len(self.classnames)), np.float32), *found])

    def score(self, pictures: Any, labels: Any, batch_size: int = BATCH) -> float:
        """Return the accuracy, 0 to 1.

        Args:
            pictures: B pictures.
            labels: The true class of each: B names, or numbers of classes.
            batch_size: Pictures to encode at once.

        Raises:
            UserError: There are no pictures, a label is not a class, or there is not one for each picture.
        """
        true = [self._number(label) for label in ([labels] if isinstance(labels, str) else labels)]
        predicted = [int(p) for logits in self._logits(pictures, batch_size) for p in logits.argmax(-1)]
        if len(true) != len(predicted) or not true:
            raise UserError(f"there are {len(predicted)} pictures and {len(true)} labels, expected one label for each.")
        return sum(p == t for p, t in zip(predicted, true, strict=True)) / len(true)

    @torch.no_grad()
    def image_features(self, pictures: Any, batch_size: int = BATCH) -> Tensor:
        """Return image features (B, E) of unit length, fp32. Cosine similarities to them decide the class."""
        parts = self.batches(pictures, batch_size)
        found = [normalize(self.model.image_features(part.to(self.device))) for part in parts]
        return torch.cat(found) if found else torch.zeros(0, self.clip_model.visual.output_dim, device=self.device)

    def __call__(self, pictures: Any) -> Tensor:
        """Return the logits (B, C), fp32. A tensor goes through the model in one pass, with gradients if wanted."""
        if isinstance(pictures, Tensor) and pictures.dim() != 3:
            return self.model(pictures.to(self.device))
        found = list(self._logits(pictures, BATCH))
        return torch.cat(found) if found else torch.zeros(0, len(self.classnames), device=self.device)

    def to(self, device: str | torch.device) -> "Classifier":
        """Move the model; return this classifier. UserError if there is no such device."""
        self.model.to(check_device(device))
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the prompt file of this classifier: the same prompts, with these class names.

        What the file says of its accuracy is left out if the classes are others.
        """
        about = {key: value for key, value in self.about.items() if key != "format"}
        if about.get("classnames") != self.classnames:
            about.pop("metrics", None)
        more = {"classnames": self.classnames, "preprocessing": self.preprocess.to_json()}
        write_prompt_file(path, self._tensors, {**about, **more})

    def __repr__(self) -> str:
        names = ", ".join(self.classnames[:5]) + (", ..." if len(self.classnames) > 5 else "")
        method, backbone = self.about.get("method", "prompt"), self.about.get("backbone") or "CLIP"
        tested = "" if self.accuracy is None else f", test accuracy {self.accuracy:.1f}%"
        return (
            f"Classifier({method} on {backbone}, {len(self.classnames)} classes: {names}; "
            f"{self.payload_bytes:,} bytes{tested}; {self.device})"
        )

    @torch.no_grad()
    def _logits(self, pictures: Any, batch_size: int) -> Iterator[Tensor]:
        for part in self.batches(pictures, batch_size):
            logits = self.model(part.to(self.device))
            if not bool(logits.isfinite().all()):
                raise UserError("the logits hold NaN or infinite values: the weights of the backbone are damaged.")
            yield logits

    def _number(self, label: Any) -> int:
        if isinstance(label, str):
            if label not in self.classnames:
                hint = did_you_mean(label, self.classnames)
                raise UserError(f"no class {label!r} among the {len(self.classnames)} classes.{hint}")
            return self.classnames.index(label)
        try:
            number = int(label)
        except (TypeError, ValueError):
            number = -1
        if not 0 <= number < len(self.classnames) or number != label:
            raise UserError(f"label {label!r} is not a class: expected a name, or 0 to {len(self.classnames) - 1}.")
        return number


@torch.inference_mode(False)  # the classifier can be used outside of it too
def load_classifier(
    path: str | os.PathLike[str],
    classnames: ClassNames | None = None,
    backbone: str = "",
    backbone_path: str | os.PathLike[str] = "",
    other_backbone: bool = False,
    device: str | torch.device = "cpu",
) -> Classifier:
    """Return the classifier of a prompt file.

    Args:
        path: Of the prompt file.
        classnames: Any other classes; by default those that the prompt was learned on, which the file holds. A list,
            "cat,dog", or a file with one name per line.
        backbone: Name of the backbone; by default the one that the file names.
        backbone_path: A file with the weights of the backbone.
        other_backbone: Accept a backbone with other weights than those that the prompts were learned with.
        device: Where pictures are encoded.

    Raises:
        UserError: The file holds no class names and none are given, or file and backbone do not belong together.
    """
    check_device(device)
    file = read_prompt_file(path)
    names = class_names(classnames) if classnames is not None else file.about.get("classnames")
    if not names:
        raise UserError(f"{path} holds no class names: give them, as in classnames='cat,dog' or --classes 'cat,dog'.")
    if classnames is not None and (problem := describe_same_prompts(names) or describe_no_words(names)):
        raise UserError(f"{problem}.")
    name = backbone or file.about.get("backbone", "")
    if not name and not backbone_path:
        raise UserError(f"{path} does not say which backbone it is for: type --backbone NAME.")
    clip_model = load_clip(name or "ViT-B/16", backbone_path)
    expected = file.about.get("backbone_sha256")
    if expected and not other_backbone and not Identity.of(clip_model).accepts(expected):
        raise UserError(
            f"{path} was learned with other weights of {file.about.get('backbone', 'its backbone')}, or another "
            f"activation or number of heads, than {backbone_path or name} has. Name those (--backbone, "
            "--backbone-path), or add --other-backbone."
        )
    try:
        preprocess = _preprocessing(file, clip_model, other_backbone)
        model = prompted_clip(file, names, clip_model)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Classifier(model, names, preprocess, file).to(device)


def _preprocessing(file: PromptFile, clip_model: ClipModel, other_backbone: bool) -> Preprocessing:
    resolution = clip_model.visual.input_resolution
    if "preprocessing" not in file.about:
        return Preprocessing.of_clip(resolution)
    preprocess = Preprocessing.from_json(file.about["preprocessing"])
    if preprocess.size == (resolution, resolution):
        return preprocess
    if not other_backbone:
        raise UserError(
            f"its pictures have {preprocess.size} pixels, this backbone expects {resolution} x {resolution}"
        )
    log.info(
        "Pictures are resized to %d x %d pixels, not to %s as in training", resolution, resolution, preprocess.size
    )
    return replace(preprocess, size=(resolution, resolution), resize=resolution)


def read_images(paths: Sequence[str | os.PathLike[str]], clip_model: ClipModel) -> Tensor:
    """(B, 3, H, W): images as CLIP takes them (shorter side resized, center cropped, normalized)."""
    preprocess = Preprocessing.of_clip(clip_model.visual.input_resolution)
    return torch.stack([preprocess(read_image(path)) for path in paths])
