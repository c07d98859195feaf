#!/usr/bin/env python3
"""A whole training step (images, text, loss, backward, update): our plain path, our fast one, upstream's trainer.

    python benchmarks/training_step.py --coop ../CoOp --maple ../multimodal-prompt-learning
    python benchmarks/training_step.py --methods MaPLe --classes 50 --repeat 3

Random ViT-B/16 weights, fp32. CoOp: batch 32, as published; "features" is the step where no transform is random and
image features are kept. MaPLe: batch 4, depth 9.
"""

import argparse
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from measure import reference, save, side_by_side, upstream
from text_encoding import class_names

from qprompt.backbones.load import build_clip
from qprompt.backbones.random_weights import SHAPES, random_state_dict
from qprompt.engine import activate
from qprompt.prompted_clip import PromptedCLIP, initial_context, prompt_layout

BATCH = {"CoOp": 32, "MaPLe": 4}


def step(model, image, label, optimizer):
    loss = F.cross_entropy(model(image), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def ours(method, clip_model, names):
    """Our model of `method`, as its trainer builds it."""
    from trainers.coop import PromptLearner
    from trainers.maple import MultiModalPromptLearner

    if method == "CoOp":
        layout = prompt_layout(clip_model, names, "X X X X", 4)
        return PromptedCLIP(clip_model, layout, PromptLearner(initial_context(clip_model, 4)))
    layout = prompt_layout(clip_model, names, "a photo of a", 2)
    context = initial_context(clip_model, 2, "a photo of a")
    return PromptedCLIP(clip_model, layout, MultiModalPromptLearner(context, 9, clip_model.visual.transformer.width))


def upstream_model(method, module, weights, names):
    """Upstream's own CustomCLIP on the same weights; called as its trainer calls it."""
    size = SimpleNamespace(SIZE=(224, 224))
    if method == "CoOp":
        node = SimpleNamespace(N_CTX=4, CTX_INIT="", CSC=False, CLASS_TOKEN_POSITION="end")
        cfg = SimpleNamespace(TRAINER=SimpleNamespace(COOP=node), INPUT=size)
        clip_model = module.clip.build_model(dict(weights)).float()
    else:
        node = SimpleNamespace(N_CTX=2, CTX_INIT="a photo of a", PROMPT_DEPTH=9)
        cfg = SimpleNamespace(TRAINER=SimpleNamespace(MAPLE=node), INPUT=size)
        design = {"trainer": "MaPLe", "maple_length": 2, "vision_depth": 0, "language_depth": 0}
        design |= {"vision_ctx": 0, "language_ctx": 0}
        clip_model = module.clip.build_model(dict(weights), design).float()
    model = module.CustomCLIP(cfg, names, clip_model).eval()  # eval: logits, not the loss
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("prompt_learner" in name)
    return model


def measure(method, weights, clip_model, n_classes, repeat, module):
    names, batch = class_names(n_classes), BATCH[method]
    model = ours(method, clip_model, names)
    image, label = torch.randn(batch, 3, 224, 224), torch.arange(batch) % n_classes
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)

    def run(plain, given=image):
        with reference(plain):
            step(model, given, label, optimizer)

    calls = {"fast": lambda: run(False), "plain": lambda: run(True)}
    if method == "CoOp":
        with torch.no_grad():
            features = model.image_features(image)
        calls["features"] = lambda: run(False, features)
    if module is not None:
        theirs = upstream_model(method, module, weights, names)
        learned = [p for p in theirs.parameters() if p.requires_grad]
        their_optimizer = torch.optim.SGD(learned, lr=0.002, momentum=0.9)
        calls["upstream"] = lambda: step(theirs, image, label, their_optimizer)
    timed = side_by_side(calls, repeat)
    row = {"method": method, "classes": n_classes, "batch": batch, "rows": len(model.layout.rows)}
    return row | {n: {"median_s": m, "fastest_s": f, "slowest_s": s} for n, (m, f, s) in timed.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(BATCH), choices=BATCH)
    parser.add_argument("--backbone", default="ViT-B/16", choices=SHAPES)
    parser.add_argument("--classes", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--coop", help="path of a CoOp checkout to measure beside ours")
    parser.add_argument("--maple", help="path of a MaPLe checkout to measure beside ours")
    args = parser.parse_args()
    activate()
    weights = random_state_dict(args.backbone)
    clip_model = build_clip(weights, args.backbone)
    checkouts = {"CoOp": args.coop, "MaPLe": args.maple}
    rows = []
    for method in args.methods:
        module = upstream(checkouts[method], method.lower()) if checkouts[method] else None
        for n_classes in args.classes:
            row = measure(method, weights, clip_model, n_classes, args.repeat, module)
            rows.append(row)
            base = row.get("upstream", row["plain"])["median_s"]
            print(f"{method}, {n_classes} classes, batch {row['batch']}")
            for name in ("upstream", "plain", "fast", "features"):
                if name in row:
                    r = row[name]
                    spread = f"({r['fastest_s']:.2f} to {r['slowest_s']:.2f})"
                    print(f"  {name:9} {r['median_s']:8.2f} s {spread} {base / r['median_s']:6.1f}x")
    save("training_step", rows, backbone=args.backbone)


if __name__ == "__main__":
    main()
