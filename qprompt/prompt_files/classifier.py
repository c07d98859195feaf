"""A prompt file and a CLIP model as a classifier of any class names."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qprompt.backbones import ClipModel, backbone_hash, import_clip, load_clip
from qprompt.data.images import read_image
from qprompt.errors import UserError
from qprompt.prompt_files.format import PromptFile, StoredTensor, read_prompt_file
from qprompt.prompt_files.packing import stored_tensor
from qprompt.prompted_clip import PromptedCLIP, Prompts, prompt_layout
from qprompt.prompts import Method, find_method
from qprompt.prompts.independent import DEEP
from qprompt.prompts.initial import check_prompts_fit, placeholder_words
from qprompt.prompts.method import LEARNER
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.fake_quantize import FakeQuantize


def load_classifier(
    path: str | os.PathLike[str],
    classnames: Sequence[str],
    backbone: str = "",
    backbone_path: str = "",
    other_backbone: bool = False,
    device: str | torch.device = "cpu",
) -> PromptedCLIP:
    """Return CLIP with the prompts of a file: a model from images to logits, in eval mode.

    Args:
        path: of the prompt file.
        classnames: of the classes, any.
        backbone: its name; by default the one that the file names.
        backbone_path: a file with the weights of the backbone.
        other_backbone: accept a backbone with other weights than those that the prompts were learned with.
        device: of the model.

    Raises:
        UserError: file and backbone do not belong together.
    """
    file = read_prompt_file(path)
    name = backbone or file.about.get("backbone", "")
    if not name and not backbone_path:
        raise UserError(f"{path} does not say which backbone it is for: type --backbone NAME.")
    clip_model = load_clip(name or "ViT-B/16", backbone_path, device)
    expected = file.about.get("backbone_sha256")
    if expected and not other_backbone and backbone_hash(clip_model) != expected:
        raise UserError(
            f"{path} was learned with other weights of {file.about.get('backbone', 'its backbone')} than "
            f"{backbone_path or name} has. Name those (--backbone, --backbone-path), or add --other-backbone."
        )
    try:
        return _classifier(file, classnames, clip_model).to(device).eval()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _classifier(file: PromptFile, classnames: Sequence[str], clip_model: ClipModel) -> PromptedCLIP:
    method, learner = restore_learner(file)
    prompts = _prompts_of(method, learner, clip_model)
    check_prompts_fit(prompts, clip_model)
    n_context = 0 if prompts.text is None else prompts.text.shape[-2]
    # Third-party trainers do not record the words: those of MaPLe's repository start from these.
    default = method.words if method.words and n_context <= 4 else placeholder_words(n_context)
    words, position = file.about.get("words") or default, file.about.get("class_position", "end")
    layout = prompt_layout(clip_model, classnames, words, n_context, position)
    return method.model(clip_model, layout, learner, 0.0)


def restore_learner(file: PromptFile) -> tuple[Method, nn.Module]:
    """Return the method of a prompt file and its learner with the stored tensors; UserError if none is known."""
    tensors = {name.removeprefix(LEARNER): stored.tensor() for name, stored in file.tensors.items()}
    method = find_method(tensors)
    if method is None:
        raise UserError(f"it holds {', '.join(list(tensors)[:6])}, not the prompts of a known method")
    try:
        return method, method.restore(tensors)
    except UserError as error:
        raise UserError(f"{error} (its prompts are those of {method.trainer})") from None


def _prompts_of(method: Method, learner: nn.Module, clip_model: ClipModel) -> Prompts:
    """Return the prompts, for any image where they depend on it."""
    if not method.conditional:
        prompts = learner()
        if prompts.text is not None and prompts.text.dim() != 2:
            raise UserError(
                f"its contexts {tuple(prompts.text.shape)} are class-specific (CSC): they say nothing about other "
                "classes. Evaluate them with train.py --eval-only on the data set that they were learned on."
            )
        return prompts
    width = clip_model.visual.output_dim
    try:
        return learner(torch.zeros(1, width))
    except RuntimeError:
        raise UserError(f"its prompts depend on image features of another width than {width}") from None


def project(file: PromptFile, bits: int = 32) -> dict[str, StoredTensor]:
    """Return the independent prompts (IVLP's) that MaPLe's amount to: its image prompts instead of the projections.

    Text prompts stay as they are stored. The result cannot be trained further as MaPLe's.

    Args:
        file: with prompts of MaPLe.
        bits: of the image prompts: 32 is exact, 16 rounds to half precision, 1 to 8 quantizes by K-Means.
    """
    method, learner = restore_learner(file)
    if method.key != "maple":
        raise UserError("it holds no prompts of MaPLe, so there is nothing to project")
    prompts: Prompts = learner()
    assert prompts.image is not None
    tensors = {name.removeprefix(LEARNER): stored for name, stored in file.tensors.items()}
    text, image = DEEP.format("text"), DEEP.format("image")
    result = {f"{LEARNER}ctx": tensors["ctx"]}
    for i in range(len(prompts.text_deep)):
        result[text.format(i + 1)] = tensors[f"compound_prompts_text.{i}"]
    names = ["image_encoder.VPT", *(image.format(i + 1) for i in range(len(prompts.image_deep)))]
    for name, value in zip(names, (prompts.image, *prompts.image_deep), strict=True):
        result[name] = _stored(name, value, bits)
    return result


def _stored(name: str, value: Tensor, bits: int) -> StoredTensor:
    if bits == 32:
        return StoredTensor(tuple(value.shape), "float32", 32, values=value)
    fake = FakeQuantize(value, QuantConfig(bits=bits))
    fake.fit(value)
    return stored_tensor(name, value, fake)


def class_names(text: str) -> list[str]:
    """ "cat, dog" -> ["cat", "dog"]; a path to a file has one name a line."""
    if os.path.isfile(text):
        with open(text, encoding="utf-8") as file:
            names = [line.strip() for line in file]
    else:
        names = [name.strip() for name in text.split(",")]
    names = [name for name in names if name]
    doubled = {name for name in names if names.count(name) > 1}
    if not names or doubled:
        problem = f"{', '.join(sorted(doubled))} twice" if doubled else "no name"
        raise UserError(f"--classes has {problem}: expected different names, 'cat,dog', or a file with one a line.")
    return names


def read_images(paths: Sequence[str | os.PathLike[str]], clip_model: ClipModel) -> Tensor:
    """(B, 3, H, W): images as CLIP takes them (shorter side resized, centre cropped, normalized)."""
    transform = import_clip().clip._transform(clip_model.visual.input_resolution)
    return torch.stack([transform(read_image(path)) for path in paths])
