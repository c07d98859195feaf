"""A prompt file and a CLIP model as a classifier of any class names."""

import os
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprompt.backbones import ClipModel, backbone_hash, import_clip, load_clip
from qprompt.checkpoints import KINDS, kind_of
from qprompt.data.images import read_image
from qprompt.errors import UserError
from qprompt.prompt_file import PromptFile, read_prompt_file
from qprompt.prompted_clip import PromptedCLIP, Prompts, prompt_layout

# What upstream's MaPLe starts from, for files that don't say.
MAPLE_WORDS = "a photo of a"


class StoredPrompts(nn.Module):
    """CoOp's or MaPLe's prompt learner, from the tensors of a prompt file (names without a prefix).

    Of a text width D and an image width V: ctx and compound_prompts_text.{i} are (n, D); proj.weight and
    compound_prompt_projections.{i}.weight (V, D), with biases (V,).
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.kind = kind_of(tensors)
        for name in KINDS[self.kind].names(tensors):
            self.register_buffer(name.replace(".", "_"), tensors[name].float())
        self.depth = 1 + sum(name.startswith("compound_prompts_text.") for name in tensors)
        missing = [name for name in self._needed() if name.replace(".", "_") not in self._buffers]
        if missing:
            raise UserError(f"it lacks {', '.join(missing)} of the prompts of {KINDS[self.kind].method}")

    def forward(self) -> Prompts:
        own = self._buffers
        if self.kind == "coop":
            return Prompts(text=own["ctx"])

        def project(x: Tensor | None, name: str) -> Tensor:
            assert x is not None
            return F.linear(x, own[f"{name}_weight"], own[f"{name}_bias"])  # type: ignore[arg-type]

        deep = [own[f"compound_prompts_text_{i}"] for i in range(self.depth - 1)]
        image_deep = [project(x, f"compound_prompt_projections_{i}") for i, x in enumerate(deep)]
        return Prompts(own["ctx"], deep, project(own["ctx"], "proj"), image_deep)  # type: ignore[arg-type]

    def _needed(self) -> list[str]:
        if self.kind == "coop":
            return ["ctx"]
        layers = ["proj", *(f"compound_prompt_projections.{i}" for i in range(self.depth - 1))]
        texts = [f"compound_prompts_text.{i}" for i in range(self.depth - 1)]
        return ["ctx", *texts, *(f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias"))]


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
    context = learner().text
    assert context is not None
    width = clip_model.ln_final.weight.shape[0]
    if context.shape[-1] != width:
        raise UserError(f"its prompts have width {context.shape[-1]}, the text branch of this backbone has {width}")
    if context.dim() != 2:
        raise UserError(
            f"its contexts {tuple(context.shape)} are class-specific (CSC): they say nothing about other classes. "
            "Evaluate them with train.py --eval-only on the data set that they were learned on."
        )
    if learner.depth > len(clip_model.transformer.resblocks):
        raise UserError(f"its prompts are {learner.depth} layers deep, the backbone has fewer")
    if learner.kind == "maple" and not hasattr(clip_model.visual, "transformer"):
        raise UserError("its prompts go into the image branch too, which takes a ViT backbone")
    words = file.about.get("words") or (MAPLE_WORDS if learner.kind == "maple" and len(context) <= 4 else "")
    words = words or " ".join(["X"] * len(context))
    layout = prompt_layout(clip_model, classnames, words, len(context), file.about.get("class_position", "end"))
    return PromptedCLIP(clip_model, layout, learner)


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
