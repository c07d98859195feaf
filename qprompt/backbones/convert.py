"""Other people's CLIPs as openai's: their weights renamed, and the few things changed that names don't tell."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qprompt.backbones.clip_package import ClipModel, import_clip
from qprompt.errors import UserError, did_you_mean

OPEN_CLIP = "open_clip:"


@dataclass(frozen=True)
class Dialect:
    """How a model differs from openai's CLIP of the same weights."""

    image_heads: int = 0  # 0: as openai has it, a head of width 64
    text_heads: int = 0
    image_gelu: bool = False  # the exact GELU, not QuickGELU
    text_gelu: bool = False
    image_eps: float = 1e-5
    ln_pre: bool = True

    def apply_(self, model: ClipModel) -> None:
        """Change a fresh `clip.model.CLIP` into one that computes what the other model does."""
        for transformer, n_heads, gelu in (
            (getattr(model.visual, "transformer", None), self.image_heads, self.image_gelu),
            (model.transformer, self.text_heads, self.text_gelu),
        ):
            for block in transformer.resblocks if transformer is not None else ():
                if n_heads:
                    block.attn.num_heads, block.attn.head_dim = n_heads, block.attn.embed_dim // n_heads
                if gelu:
                    block.mlp.gelu = nn.GELU()
        for module in model.visual.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = self.image_eps
        if not self.ln_pre:
            model.visual.ln_pre = nn.Identity()


def is_slip(state: dict[str, Tensor]) -> bool:
    """Whether weights are those of SLIP's models (github.com/facebookresearch/SLIP): a timm ViT, CLIP's text side."""
    return "visual.cls_token" in state and "image_projection" in state


def from_slip(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Dialect]:
    """SLIP's weights under openai's names."""
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
        elif owner not in ("visual", "image_projection", "image_mlp"):  # image_mlp served its self-supervised loss
            found[name] = value
    width = state["visual.cls_token"].shape[-1]
    position = state["visual.pos_embed"][0].clone()  # (1 + grid**2, V)
    position[1:] += state["visual.patch_embed.proj.bias"]  # openai's first convolution has no bias
    found["visual.positional_embedding"] = position
    found["visual.class_embedding"] = state["visual.cls_token"].flatten()
    found["visual.proj"] = state["image_projection"]
    found["visual.ln_pre.weight"], found["visual.ln_pre.bias"] = torch.ones(width), torch.zeros(width)
    # The small ViT is MoCo v3's, with 12 heads of width 32.
    heads = 12 if width == 384 else width // 64
    return found, Dialect(image_heads=heads, image_gelu=True, image_eps=1e-6, ln_pre=False)


def import_open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise UserError("open_clip is not installed, which this backbone needs: pip install open_clip_torch") from None
    return open_clip


def check_open_clip(name: str) -> tuple[str, str]:
    """Architecture and pretrained tag (or file) of "open_clip:MODEL/PRETRAINED"; UserError for an unknown model."""
    open_clip = import_open_clip()
    architecture, _, pretrained = name.removeprefix(OPEN_CLIP).partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise UserError(f"open_clip has no model {architecture!r}.{did_you_mean(architecture, known)}")
    return architecture, pretrained


def load_open_clip(name: str, path: str = "") -> tuple[Any, dict[str, Tensor], Dialect]:
    """An open_clip model, its weights under openai's names, and what else differs."""
    architecture, pretrained = check_open_clip(name)
    if not (path or pretrained):
        raise UserError(f"{name} names no weights: type {name}/PRETRAINED, or give a file with MODEL.BACKBONE.PATH.")
    open_clip = import_open_clip()
    try:
        model = open_clip.create_model(architecture, pretrained=str(path or pretrained)).eval()
    except Exception as error:  # its download and its checks raise many kinds
        raise UserError(f"{name} can't be loaded: {' '.join(str(error).split())[:300]}") from error
    for branch in ("transformer", "positional_embedding", "token_embedding", "text_projection"):
        if not hasattr(model, branch):
            raise UserError(
                f"{name} can't be prompted: it has no {branch!r} of its own. A text side like CLIP's is needed, "
                "causal and read at EOT; SigLIP, CoCa and models with a HuggingFace text tower have another."
            )
    image_blocks: Any = getattr(getattr(model.visual, "transformer", None), "resblocks", ())
    text_block = model.transformer.resblocks[0]
    dialect = Dialect(
        image_heads=image_blocks[0].attn.num_heads if image_blocks else 0,
        text_heads=text_block.attn.num_heads,
        image_gelu=bool(image_blocks) and isinstance(image_blocks[0].mlp.gelu, nn.GELU),
        text_gelu=isinstance(text_block.mlp.gelu, nn.GELU),
    )
    return model, dict(model.state_dict()), dialect


def same_features(theirs: Any, ours: ClipModel, origin: str) -> None:
    """Raise UserError unless two models give the same features of two prompts and an image."""
    prompt = ["a photo of a cat.", "two dogs in front of a red house"]
    tokens = import_clip().tokenize(prompt, context_length=ours.context_length)
    size = ours.visual.input_resolution
    image = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
    for branch, given in (("text", tokens), ("image", image)):
        with torch.no_grad():
            wanted, got = (getattr(model, f"encode_{branch}")(given) for model in (theirs, ours))
        if wanted.shape != got.shape or (wanted - got).abs().max() > 1e-3 * wanted.abs().max():
            raise UserError(f"{origin} can't be prompted: its {branch} side computes something else than CLIP's.")
