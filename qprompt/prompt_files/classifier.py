"""A prompt file and a CLIP model as a classifier of any class names."""

import os
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprompt.backbones import ClipModel, backbone_hash, import_clip, load_clip
from qprompt.data.images import read_image
from qprompt.errors import UserError
from qprompt.prompt_files.format import PromptFile, StoredTensor, read_prompt_file
from qprompt.prompt_files.packing import stored_tensor
from qprompt.prompt_files.upstream import KINDS, kind_of
from qprompt.prompted_clip import ConditionalCLIP, PromptedCLIP, Prompts, prompt_layout
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.fake_quantize import FakeQuantize

WORDS = "a photo of a"
LAYER = "encoder.transformer.resblocks.{}.VPT_shallow"


class StoredPrompts(nn.Module):
    """A prompt learner of `upstream.KINDS`, from the tensors of a prompt file (names without a prefix).

    Of a text width D, an image width V and a feature width E: text prompts are (n, D), image prompts (n, V),
    projections (V, D); the meta network of CoCoOp maps E to D.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.kind = kind_of(tensors)
        names = KINDS[self.kind].names(tensors)
        if not names:
            raise UserError(f"it holds {', '.join(list(tensors)[:6])}, not the prompts of a trainer known here")
        for name in names:
            self.register_buffer(name.replace(".", "/"), tensors[name].float())
        self.text_deep = self._layers("compound_prompts_text.{}", 0) or self._layers(f"text_{LAYER}", 1)
        self.image_deep = self._layers("compound_prompt_projections.{}", 0) or self._layers(f"image_{LAYER}", 1)
        missing = [name for name in self._needed() if name.replace(".", "/") not in self._buffers]
        if missing:
            raise UserError(f"it lacks {', '.join(missing)} of the prompts of {KINDS[self.kind].method}")

    @property
    def context(self) -> Tensor | None:
        """The context vectors of the first text layer; None where the text is hand-written."""
        return self._buffers.get("ctx")

    def forward(self, image_features: Tensor | None = None) -> Prompts:
        """The prompts; CoCoOp's for normalized `image_features` (B, E)."""
        deep = [self._own(name) for name in self.text_deep]
        if self.kind == "cocoop":
            assert image_features is not None
            shift = self._linear("meta_net.linear2", self._linear("meta_net.linear1", image_features).relu())
            return Prompts((self._own("ctx") + shift[:, None])[:, None])
        if self.kind == "maple":
            image_deep = [self._linear(name, x) for name, x in zip(self.image_deep, deep, strict=True)]
            return Prompts(self.context, deep, self._linear("proj", self._own("ctx")), image_deep)
        image = self._buffers.get("image_encoder/VPT")
        return Prompts(self.context, deep, image, [self._own(name) for name in self.image_deep])

    def _own(self, name: str) -> Tensor:
        tensor = self._buffers[name.replace(".", "/")]
        assert tensor is not None
        return tensor

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._own(f"{name}.weight"), self._own(f"{name}.bias"))

    def _layers(self, pattern: str, first: int) -> list[str]:
        """Names of the deep prompts, or of the layers that make them, in order from number `first` on."""
        found = []
        while any(key.startswith(pattern.format(first).replace(".", "/")) for key in self._buffers):
            found.append(pattern.format(first))
            first += 1
        return found

    def _needed(self) -> list[str]:
        both = ("weight", "bias")
        if self.kind == "maple":
            layers = ["proj", *(f"compound_prompt_projections.{i}" for i in range(len(self.text_deep)))]
            return ["ctx", *(f"{layer}.{leaf}" for layer in layers for leaf in both)]
        if self.kind == "cocoop":
            return ["ctx", *(f"meta_net.linear{i}.{leaf}" for i in (1, 2) for leaf in both)]
        return ["ctx"] if self.kind == "coop" else []


def project(file: PromptFile, bits: int = 32) -> dict[str, StoredTensor]:
    """The independent prompts (IVLP's) that MaPLe's come to: its image prompts instead of the projections to them.

    Text prompts stay as they are stored. Image prompts are stored with `bits`: 32 loses nothing, 16 rounds to half
    precision, 1 to 8 quantizes them by K-Means. What is lost in every case: they cannot be trained on as MaPLe's.
    """
    tensors = {name.removeprefix("prompt_learner."): stored for name, stored in file.tensors.items()}
    if kind_of(tensors) != "maple":
        raise UserError("it holds no prompts of MaPLe, so there is nothing to project")
    prompts = StoredPrompts({name: stored.tensor() for name, stored in tensors.items()})()
    assert prompts.image is not None
    result = {"prompt_learner.ctx": tensors["ctx"]}
    for i in range(len(prompts.text_deep)):
        result[f"text_{LAYER.format(i + 1)}"] = tensors[f"compound_prompts_text.{i}"]
    names = ["image_encoder.VPT", *(f"image_{LAYER.format(i + 1)}" for i in range(len(prompts.image_deep)))]
    for name, value in zip(names, (prompts.image, *prompts.image_deep), strict=True):
        result[name] = _stored(name, value, bits)
    return result


def _stored(name: str, value: Tensor, bits: int) -> StoredTensor:
    if bits == 32:
        return StoredTensor(tuple(value.shape), "float32", 32, values=value)
    fake = FakeQuantize(value, QuantConfig(bits=bits))
    fake.fit(value)
    return stored_tensor(name, value, fake)


def load_classifier(
    path: str | os.PathLike[str],
    classnames: Sequence[str],
    backbone: str = "",
    backbone_path: str = "",
    other_backbone: bool = False,
    device: str | torch.device = "cpu",
) -> PromptedCLIP:
    """CLIP with the prompts of the file at `path`, for `classnames`: a model from images to logits, in eval mode.

    Args:
        backbone: its name; without one, that which the file names. `backbone_path`: weights of one's own.
        other_backbone: take a backbone with other weights than those that the prompts were learned with.

    Raises UserError where file and backbone don't belong together.
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
    learner = StoredPrompts({k.removeprefix("prompt_learner."): t.tensor() for k, t in file.tensors.items()})
    _check_fit(learner, clip_model)
    n_context = 0 if learner.context is None else len(learner.context)
    # Trainers that are not ours don't say which words: those of MaPLe's repository start from these.
    known = learner.kind in ("maple", "ivlp", "vpt") and n_context <= 4
    words = file.about.get("words") or (WORDS if known else " ".join(["X"] * n_context))
    layout = prompt_layout(clip_model, classnames, words, n_context, file.about.get("class_position", "end"))
    return (ConditionalCLIP if learner.kind == "cocoop" else PromptedCLIP)(clip_model, layout, learner)


def _check_fit(learner: StoredPrompts, clip_model: ClipModel) -> None:
    context, image = learner.context, learner._buffers.get("image_encoder/VPT")
    if context is not None and context.dim() != 2:
        raise UserError(
            f"its contexts {tuple(context.shape)} are class-specific (CSC): they say nothing about other classes. "
            "Evaluate them with train.py --eval-only on the data set that they were learned on."
        )
    if learner.image_deep or image is not None or learner.kind == "maple":
        if not hasattr(clip_model.visual, "transformer"):
            raise UserError("its prompts go into the image branch too, which takes a ViT backbone")
        projection = learner._buffers.get("proj/weight")
        width = clip_model.visual.transformer.width
        got = len(projection) if projection is not None else image.shape[-1] if image is not None else width
        if got != width:
            raise UserError(f"its image prompts have width {got}, the image branch of this backbone has {width}")
    width = clip_model.ln_final.weight.shape[0]
    if context is not None and context.shape[-1] != width:
        raise UserError(f"its prompts have width {context.shape[-1]}, the text branch of this backbone has {width}")
    for name, deep, branch in (
        ("text", learner.text_deep, clip_model),
        ("image", learner.image_deep, clip_model.visual),
    ):
        if deep and len(deep) >= len(branch.transformer.resblocks):
            layers = len(branch.transformer.resblocks)
            raise UserError(f"its {name} prompts are {len(deep) + 1} layers deep, the backbone has {layers}")


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
