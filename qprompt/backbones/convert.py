"""Convert SLIP and open_clip models to openai's CLIP: rename weights, and change what the weights do not tell."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qprompt.backbones.clip_package import ClipModel, import_clip
from qprompt.errors import UserError, did_you_mean

OPEN_CLIP = "open_clip:"


@dataclass(frozen=True)
class Variant:
    """Differences between a model's computation and that of openai's CLIP with the same weights.

    Attributes:
        image_heads, text_heads: Number of attention heads; 0: openai's, heads of width 64.
        image_gelu, text_gelu: Use the exact GELU instead of QuickGELU.
        image_eps, text_eps: Epsilon of the layer norms.
        ln_pre: Whether a layer norm precedes the image branch's transformer.
    """

    image_heads: int = 0
    text_heads: int = 0
    image_gelu: bool = False
    text_gelu: bool = False
    image_eps: float = 1e-5
    text_eps: float = 1e-5
    ln_pre: bool = True

    def apply_(self, model: ClipModel) -> None:
        """Change a new `clip.model.CLIP` in place so that it computes what the other model computes."""
        for transformer, n_heads, gelu in (
            (getattr(model.visual, "transformer", None), self.image_heads, self.image_gelu),
            (model.transformer, self.text_heads, self.text_gelu),
        ):
            for resblock in transformer.resblocks if transformer is not None else ():
                if n_heads:
                    resblock.attn.num_heads, resblock.attn.head_dim = n_heads, resblock.attn.embed_dim // n_heads
                if gelu:
                    resblock.mlp.gelu = nn.GELU()
        in_image = set(model.visual.modules())
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = self.image_eps if module in in_image else self.text_eps
        if not self.ln_pre:
            model.visual.ln_pre = nn.Identity()


def is_slip(state: dict[str, Tensor]) -> bool:
    """Return whether weights are SLIP's (github.com/facebookresearch/SLIP): a ViT of timm and CLIP's text branch."""
    return "visual.cls_token" in state and "image_projection" in state


def from_slip(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Variant]:
    """Rename SLIP's weights to openai's names; return them and the other differences."""
    renamed = {"patch_embed.proj.weight": "conv1.weight", "norm.weight": "ln_post.weight", "norm.bias": "ln_post.bias"}
    in_block = {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.weight": "attn.in_proj_weight",
        "attn.qkv.bias": "attn.in_proj_bias",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    found = {}
    for name, value in state.items():
        owner, _, rest = name.partition(".")
        if owner == "visual" and rest.startswith("blocks."):
            _, number, rest = rest.split(".", 2)
            old = next((old for old in in_block if rest.startswith(old)), "")
            found[f"visual.transformer.resblocks.{number}.{rest.replace(old, in_block.get(old, ''), 1)}"] = value
        elif owner == "visual" and rest in renamed:
            found[f"visual.{renamed[rest]}"] = value
        elif owner not in ("visual", "image_projection", "image_mlp"):  # image_mlp belongs to its self-supervised loss
            found[name] = value
    width = state["visual.cls_token"].shape[-1]
    position = state["visual.pos_embed"][0].clone()  # (1 + grid**2, V)
    position[1:] += state["visual.patch_embed.proj.bias"]  # openai's first convolution has no bias
    found["visual.positional_embedding"] = position
    found["visual.class_embedding"] = state["visual.cls_token"].flatten()
    found["visual.proj"] = state["image_projection"]
    found["visual.ln_pre.weight"], found["visual.ln_pre.bias"] = torch.ones(width), torch.zeros(width)
    # The weights do not tell the number of heads. The small ViT is MoCo v3's, with 12 heads of width 32.
    heads = 12 if width == 384 else width // 64
    return found, Variant(image_heads=heads, image_gelu=True, image_eps=1e-6, ln_pre=False)


def import_open_clip() -> Any:
    """Return the `open_clip` package; UserError if it is not installed."""
    try:
        import open_clip
    except ImportError:
        raise UserError("open_clip is not installed, which this backbone needs: pip install open_clip_torch") from None
    return open_clip


def check_open_clip(name: str) -> tuple[str, str]:
    """Return the architecture and the pretrained tag (or file) of "open_clip:MODEL/PRETRAINED".

    Raises:
        UserError: open_clip does not know the model.
    """
    open_clip = import_open_clip()
    architecture, _, pretrained = name.removeprefix(OPEN_CLIP).partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise UserError(f"open_clip has no model {architecture!r}.{did_you_mean(architecture, known)}")
    return architecture, pretrained


def load_open_clip(name: str, path: str = "") -> tuple[Any, dict[str, Tensor], Variant]:
    """Load a model of open_clip; return it, its weights under openai's names, and the other differences.

    Args:
        name: "open_clip:MODEL/PRETRAINED".
        path: File with weights, instead of PRETRAINED.

    Raises:
        UserError: The model cannot be loaded, or its text branch is not like CLIP's.
    """
    architecture, pretrained = check_open_clip(name)
    if not (path or pretrained):
        raise UserError(f"{name} has no weights: type {name}/PRETRAINED, or give a file with MODEL.BACKBONE.PATH.")
    open_clip = import_open_clip()
    try:
        model = open_clip.create_model(architecture, pretrained=str(path or pretrained)).eval()
    except Exception as error:  # its download and its checks raise many types
        raise UserError(f"{name} can't be loaded: {' '.join(str(error).split())[:300]}") from error
    for branch in ("transformer", "positional_embedding", "token_embedding", "text_projection"):
        if not hasattr(model, branch):
            raise UserError(
                f"{name} can't be prompted: it has no {branch!r}. Prompts need a text branch like CLIP's, causal and "
                "read at EOT; those of SigLIP, CoCa and models with a Hugging Face text encoder are different."
            )
    image_blocks: Any = getattr(getattr(model.visual, "transformer", None), "resblocks", ())
    text_block = model.transformer.resblocks[0]
    variant = Variant(
        image_heads=image_blocks[0].attn.num_heads if image_blocks else 0,
        text_heads=text_block.attn.num_heads,
        image_gelu=bool(image_blocks) and isinstance(image_blocks[0].mlp.gelu, nn.GELU),
        text_gelu=isinstance(text_block.mlp.gelu, nn.GELU),
    )
    return model, dict(model.state_dict()), variant


def check_same_features(original: Any, converted: ClipModel, origin: str) -> None:
    """Raise UserError unless two models compute the same features of two prompts and an image."""
    prompt = ["a photo of a cat.", "two dogs in front of a red house"]
    tokens = import_clip().tokenize(prompt, context_length=converted.context_length)
    size = converted.visual.input_resolution
    image = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
    for branch, given in (("text", tokens), ("image", image)):
        with torch.no_grad():
            wanted, got = (getattr(model, f"encode_{branch}")(given) for model in (original, converted))
        if wanted.shape != got.shape or (wanted - got).abs().max() > 1e-3 * wanted.abs().max():
            raise UserError(f"{origin} can't be prompted: its {branch} branch does not compute what CLIP's does.")
