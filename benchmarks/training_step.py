#!/usr/bin/env python3
"""A training step (images, text, loss, backward, update): plain path, fast path, and upstream's trainers.

    python benchmarks/training_step.py --coop ../CoOp --maple ../multimodal-prompt-learning
    python benchmarks/training_step.py --cases MaPLe:50:4 --repeat 3

A case is METHOD:CLASSES:BATCH. Random ViT-B/16 weights, fp32; CoOp with 4 context vectors, MaPLe with depth 9.
"mkl" is the fast path without oneDNN, "features" the fast path with cached image features, "quantized" the step of
QCoOp or QMaPLe. The floor is the time of the necessary arithmetic at the measured rate of a large square matrix product
in the faster library. Rows of other cases in the results file stay.
"""

import argparse
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from measure import matrix_rates, reference, save, side_by_side, upstream, without_onednn
from text_encoding import class_names, floor

from qprompt.backbones.load import build_clip
from qprompt.backbones.random_weights import SHAPES, random_state_dict
from qprompt.engine import activate
from qprompt.prompted_clip import PromptedCLIP, initial_context, prompt_layout
from qprompt.quantization.api import quantize_, refresh_

BATCH = {"CoOp": 32, "MaPLe": 4}  # as published
CASES = ("CoOp:100:32", "CoOp:50:8", "CoOp:100:8", "MaPLe:50:4", "MaPLe:100:4")
QUANTIZED = {
    "CoOp": (["prompt_learner.ctx"], 1),
    "MaPLe": (["prompt_learner.ctx", "*proj.weight", "*compound_prompts_text.*", "*projections.*.weight"], 4),
}


def step(model, image, label, optimizer):
    loss = F.cross_entropy(model(image), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def build_model(method, clip_model, names):
    """Return the model of a method as its trainer builds it."""
    from qprompt.prompts.coop import PromptLearner
    from qprompt.prompts.maple import MultiModalPromptLearner

    if method == "CoOp":
        layout = prompt_layout(clip_model, names, "X X X X", 4)
        return PromptedCLIP(clip_model, layout, PromptLearner(initial_context(clip_model, 4)))
    layout = prompt_layout(clip_model, names, "a photo of a", 2)
    context = initial_context(clip_model, 2, "a photo of a")
    return PromptedCLIP(clip_model, layout, MultiModalPromptLearner(context, 9, clip_model.visual.transformer.width))


def upstream_model(method, module, weights, names, size):
    """Return upstream's CustomCLIP with the same weights, for calls as its trainer makes them."""
    input_ = SimpleNamespace(SIZE=(size, size))
    if method == "CoOp":
        node = SimpleNamespace(N_CTX=4, CTX_INIT="", CSC=False, CLASS_TOKEN_POSITION="end")
        cfg = SimpleNamespace(TRAINER=SimpleNamespace(COOP=node), INPUT=input_)
        clip_model = module.clip.build_model(dict(weights)).float()
    else:
        node = SimpleNamespace(N_CTX=2, CTX_INIT="a photo of a", PROMPT_DEPTH=9)
        cfg = SimpleNamespace(TRAINER=SimpleNamespace(MAPLE=node), INPUT=input_)
        design = {"trainer": "MaPLe", "maple_length": 2, "vision_depth": 0, "language_depth": 0}
        design |= {"vision_ctx": 0, "language_ctx": 0}
        clip_model = module.clip.build_model(dict(weights), design).float()
    model = module.CustomCLIP(cfg, names, clip_model).eval()  # eval mode returns logits, train mode the loss
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("prompt_learner" in name)
    return model


def image_floor(visual, batch, n_prompts, rate):
    """Return the seconds of a forward pass of the image branch: products with weights, attention scores and values."""
    width, layers, patches = visual.transformer.width, visual.transformer.layers, len(visual.positional_embedding) - 1
    rows = 1 + patches + n_prompts
    products = rows * (12 * (layers - 1) + 2) + 10 + patches * visual.conv1.weight[0].numel() / width
    return 2 * batch * (products * width**2 + 2 * layers * rows * rows * width) / rate


def measure(case, weights, clip_model, repeat, rate, modules):
    method, n_classes, batch = case.split(":")
    n_classes, batch, module = int(n_classes), int(batch), modules[method]
    names, size = class_names(n_classes), clip_model.visual.input_resolution
    model, quantized = build_model(method, clip_model, names), build_model(method, clip_model, names)
    image, label = torch.randn(batch, 3, size, size), torch.arange(batch) % n_classes
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.002, momentum=0.9) for m in (model, quantized)]
    to_quantize, bits = QUANTIZED[method]
    quantize_(quantized, names=to_quantize, bits=bits)

    def run(plain, given=image):
        with reference(plain):
            step(model, given, label, optimizers[0])

    def run_quantized():
        refresh_(quantized)
        step(quantized, image, label, optimizers[1])

    calls = {"fast": lambda: run(False), "quantized": run_quantized, "plain": lambda: run(True)}
    calls["mkl"] = lambda: without_onednn(calls["fast"])
    if method == "CoOp":
        with torch.no_grad():
            features = model.image_features(image)
        calls["features"] = lambda: run(False, features)
    if module is not None:
        theirs = upstream_model(method, module, weights, names, size)
        learned = [p for p in theirs.parameters() if p.requires_grad]
        their_optimizer = torch.optim.SGD(learned, lr=0.002, momentum=0.9)
        calls["upstream"] = lambda: step(theirs, image, label, their_optimizer)
    timed = side_by_side(calls, repeat)
    row = {"method": method, "classes": n_classes, "batch": batch, "rows": len(model.layout.rows)}
    images = image_floor(clip_model.visual, batch, 2 * (method == "MaPLe"), rate) * (1 + (method == "MaPLe"))
    row |= {"floor_s": floor(model.layout, clip_model, rate) + images, "floor_images_s": images}
    return row | {n: {"median_s": m, "fastest_s": f, "slowest_s": s} for n, (m, f, s) in timed.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--backbone", default="ViT-B/16", choices=SHAPES)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--coop", help="path of a CoOp checkout to measure too")
    parser.add_argument("--maple", help="path of a MaPLe checkout to measure too")
    args = parser.parse_args()
    activate()
    weights = random_state_dict(args.backbone)
    clip_model = build_clip(weights, args.backbone)
    checkouts = {"CoOp": args.coop, "MaPLe": args.maple}
    modules = {method: upstream(path, method.lower()) if path else None for method, path in checkouts.items()}
    rates = matrix_rates()
    rows = []
    for case in args.cases:
        row = measure(case, weights, clip_model, args.repeat, rates["best"], modules)
        rows.append(row)
        base = row.get("upstream", row["plain"])["median_s"]
        print(f"{row['method']}, {row['classes']} classes, batch {row['batch']}, floor {row['floor_s']:.2f} s")
        for name in ("upstream", "plain", "mkl", "fast", "quantized", "features"):
            if name in row:
                r = row[name]
                spread = f"({r['fastest_s']:.2f} to {r['slowest_s']:.2f})"
                print(f"  {name:9} {r['median_s']:8.2f} s {spread} {base / r['median_s']:6.1f}x", flush=True)
    save("training_step", rows, ("method", "classes", "batch"), backbone=args.backbone, rates=rates)


if __name__ == "__main__":
    main()
