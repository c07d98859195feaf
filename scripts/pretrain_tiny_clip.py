#!/usr/bin/env python3
"""Pre-train the small embedded CLIP on captioned pictures that qprompt.world draws.

About an hour on one CPU core (bf16), minutes on a GPU. The run is seeded, shows its progress, writes a
checkpoint every --save-every steps and goes on from it when started again with the same --work-dir.
At the end the weights are exported as the package's asset (fp16; only the token rows that the world uses).

    python scripts/pretrain_tiny_clip.py --work-dir output/pretrain
    python scripts/pretrain_tiny_clip.py --work-dir output/pretrain --export-only --asset my_tiny_clip.safetensors
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from qprompt.backbones import import_clip
from qprompt.io.files import atomic_open
from qprompt.world import NOUNS, RESOLUTION, SeededRandom, caption, phrases, random_scene, render

# CLIP's own normalization, so that the usual transforms serve this model too
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SHAPE = {
    "embed_dim": 128, "image_resolution": RESOLUTION, "vision_layers": 4, "vision_width": 128, "vision_patch_size": 8,
    "context_length": 77, "vocab_size": 49408, "transformer_width": 128,
    "transformer_heads": 2, "transformer_layers": 4,
}  # fmt: skip
MAX_TOKENS = 28  # captions are shorter; encoding stops here (attention is causal, so nothing is lost)


class Pairs(Dataset):
    """Batch `i` of the run: pictures (B, 3, H, W) uint8 and token ids (B, L); a function of the seed and i alone."""

    def __init__(self, clip, seed: int, batch: int, steps: int) -> None:
        self.clip, self.seed, self.batch, self.steps = clip, seed, batch, steps
        self.first = 0

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        step = self.first + index
        variety = min(100, 200 * step // self.steps)  # from plain pictures to the full world at half time
        pictures, texts = [], []
        for i in range(self.batch):
            rng = SeededRandom("pretrain", self.seed, step, i)
            scene = random_scene(rng, variety)
            pictures.append(render(scene))
            texts.append(caption(scene, rng, plain=70 - 40 * variety // 100))
        images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        tokens = self.clip.tokenize(texts, context_length=MAX_TOKENS)
        return images, tokens[:, : int(tokens.argmax(1).max()) + 1]


def normalize(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
    """Attention written out: for 37 tokens on a CPU twice as fast a training step as torch's flash kernel."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).to(v.dtype) @ v


def encode_text(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """model.encode_text for token ids (B, L) with L up to the context length; (B, D)."""
    length = tokens.shape[1]
    mask = model.build_attention_mask().to(tokens.device)[:length, :length]
    for block in model.transformer.resblocks:
        block.attn_mask = mask
    x = model.token_embedding(tokens) + model.positional_embedding[:length]  # (B, L, W)
    x = model.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
    x = model.ln_final(x)
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


def restore_masks(model: torch.nn.Module) -> None:
    for block in model.transformer.resblocks:
        block.attn_mask = model.build_attention_mask()


@torch.no_grad()
def zero_shot(clip, model: torch.nn.Module, device: str, count: int) -> float:
    """Accuracy in percent over all nouns with "a photo of a {}.", on `count` full-world pictures no run trains on."""
    model.eval()
    texts = clip.tokenize([f"a photo of a {noun.names[0]}." for noun in NOUNS], context_length=MAX_TOKENS)
    classes = F.normalize(encode_text(model, texts.to(device)), dim=-1)
    right = 0
    for start in range(0, count, 250):
        scenes = [random_scene(SeededRandom("zero-shot", i)) for i in range(start, min(count, start + 250))]
        images = torch.from_numpy(np.stack([render(s) for s in scenes])).permute(0, 3, 1, 2).to(device)
        guesses = (model.encode_image(normalize(images)) @ classes.t()).argmax(-1).cpu()
        right += int((guesses == torch.tensor([s.noun for s in scenes])).sum())
    model.train()
    return 100 * right / count


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def used_tokens(clip) -> list[int]:
    """Every token id that a caption of the world can hold."""
    return sorted({int(i) for i in clip.tokenize([*phrases(), ""]).unique()})


def export(clip, model: torch.nn.Module, path: Path, note: dict) -> None:
    """Write the asset: every tensor in fp16, of the token table only the used rows and their ids."""
    from safetensors.torch import save

    restore_masks(model)
    state = {k: v.detach().cpu().half().contiguous() for k, v in model.state_dict().items()}
    ids = torch.tensor(used_tokens(clip), dtype=torch.int32)
    state["token_embedding.rows"] = state.pop("token_embedding.weight")[ids.long()].contiguous()
    state["token_embedding.ids"] = ids
    with atomic_open(path) as file:
        file.write(save(state, metadata={"pretraining": json.dumps(note, sort_keys=True)}))
    print(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB, {len(ids)} token rows", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="folder for the log and the checkpoint")
    parser.add_argument("--asset", type=Path, help="where the asset goes (default: WORK_DIR/tiny_clip.safetensors)")
    parser.add_argument(
        "--steps", type=int, default=4500, help="length of the schedule, in batches (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=256, help="pairs in a batch (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1.2e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="of matrices (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=200, help="steps of rising learning rate (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of initialization, pictures and captions (default: %(default)s)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that draw; 0 draws in between (default: %(default)s)"
    )
    parser.add_argument("--save-every", type=int, default=200, help="steps between checkpoints (default: %(default)s)")
    parser.add_argument("--stop-after", type=int, help="stop at this step, resumable (default: the end)")
    parser.add_argument("--export-only", action="store_true", help="write the asset from the last checkpoint and end")
    args = parser.parse_args()

    if args.device == "cpu":
        F.scaled_dot_product_attention = attention
    clip = import_clip()
    torch.manual_seed(args.seed)
    model = clip.model.CLIP(**SHAPE).to(args.device)
    torch.nn.init.normal_(model.visual.class_embedding, std=SHAPE["vision_width"] ** -0.5)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.98), eps=1e-6,
    )  # fmt: skip
    settings = {k: getattr(args, k) for k in ("steps", "batch", "lr", "weight_decay", "warmup", "seed")}
    checkpoint = args.work_dir / "checkpoint.pt"
    asset = args.asset or args.work_dir / "tiny_clip.safetensors"
    step, spent = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if saved["settings"] != settings:
            sys.exit(f"{checkpoint} is of another run: it has {saved['settings']}, asked for was {settings}")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["seconds"]
        print(f"going on at step {step} of {args.steps}", flush=True)
    elif args.export_only:
        sys.exit(f"nothing to export: there is no {checkpoint}")

    def note() -> dict:
        return {**settings, "step": step, "learned_logit_scale": round(model.logit_scale.exp().item(), 2)}

    if args.export_only:
        export(clip, model, asset, note())
        return

    pairs = Pairs(clip, args.seed, args.batch, args.steps)
    pairs.first = step
    loader = DataLoader(pairs, batch_size=None, shuffle=False, num_workers=args.workers)
    autocast = torch.autocast(torch.device(args.device).type, dtype=torch.bfloat16)
    targets = torch.arange(args.batch, device=args.device)
    model.train()
    started, mean_loss, mean_right = time.monotonic() - spent, None, 0.0
    for images, tokens in loader:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr, args.warmup)
        with autocast:
            image = model.encode_image(normalize(images.to(args.device)))
            text = encode_text(model, tokens.to(args.device))
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        logits = model.logit_scale.exp() * image @ text.t()
        loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.t(), targets)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        step += 1
        right = (logits.argmax(1) == targets).float().mean().item()
        mean_loss = loss.item() if mean_loss is None else 0.98 * mean_loss + 0.02 * loss.item()
        mean_right = 0.98 * mean_right + 0.02 * right
        elapsed = time.monotonic() - started
        last = step in (args.steps, args.stop_after)
        if step % 50 == 0 or last:
            left = elapsed / step * (args.steps - step)
            print(
                f"step {step}/{args.steps}  loss {mean_loss:.3f}  pairs matched {100 * mean_right:.1f}%  "
                f"scale {model.logit_scale.exp().item():.1f}  {elapsed / 60:.1f} min, {left / 60:.0f} left",
                flush=True,
            )
        if step % args.save_every == 0 or last:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            with atomic_open(checkpoint) as file:
                torch.save({**state, "seconds": elapsed, "settings": settings}, file)
        if step % (4 * args.save_every) == 0 or last:
            print(
                f"step {step}  zero-shot over {len(NOUNS)} nouns: {zero_shot(clip, model, args.device, 1000):.1f}%",
                flush=True,
            )
        if last:
            break
    if step == args.steps:
        export(clip, model, asset, note())


if __name__ == "__main__":
    main()
