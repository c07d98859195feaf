#!/usr/bin/env python3
"""Text encoding of prompts, forward and backward: plain path, fast path, and upstream's CoOp.

    python benchmarks/text_encoding.py --coop ../CoOp                  # text branch of ViT-B/16
    python benchmarks/text_encoding.py --classes 1000 --context 16 --repeat 3

"mkl" is the fast path without oneDNN (qprompt/prompted_clip/onednn_linear.py). "bounded" saves a quarter of the memory
that "fast" saves for backward (TEXT_MEMORY_MB). Above --plain-up-to classes, the plain path and upstream are not
measured: they save 27 MB per class. Rows of other cases in the results file stay.

Weights are random, in the true shapes; class names have 1 to 4 words. The floor is the time of the necessary arithmetic
(matrix products of the rows that features depend on, forward and to the inputs) at the measured rate of a large square
product in the faster library. "products" is the time of these products alone, in their own shapes and in the library
that computes them: products with few rows are slower than large squares.
"""

import argparse
from types import SimpleNamespace

import torch
from measure import matrix_rates, reference, save, saved_for_backward, side_by_side, upstream, without_onednn

from qprompt.backbones.load import build_clip
from qprompt.backbones.random_weights import SHAPES, ClipShape, random_state_dict
from qprompt.prompted_clip import encode_text, initial_context, prompt_layout
from qprompt.prompted_clip.memory import bound_text_memory_, training_memory
from qprompt.prompted_clip.onednn_linear import linear

WORDS = ("red", "old", "small", "wooden", "bird", "tower", "river", "engine", "flower", "glass", "northern", "market")


def class_names(count):
    """Return distinct names of 1 to 4 words."""
    return [" ".join(WORDS[(i * k + k * k) % len(WORDS)] for k in range(1, 2 + i % 4)) for i in range(count)]


def text_side(name):
    """Return a CLIP with the text branch of `name` and a tiny image branch."""
    s = SHAPES[name]
    shape = ClipShape(s.embed_dim, 32, 1, 64, 32, s.transformer_width, s.transformer_heads, s.transformer_layers)
    return build_clip(random_state_dict(shape), name)


def floor(layout, clip_model, rate):
    """Return the seconds of the necessary matrix products at `rate` FLOP/s, forward and backward to the inputs."""
    width, layers = clip_model.transformer.width, clip_model.transformer.layers
    rows = len(layout.rows)
    last = 2 * rows + 10 * layout.n_classes  # in units of width**2: keys and values of all rows, the rest at EOT
    return 2 * 2 * width**2 * (12 * rows * (layers - 1) + last) / rate


def products(layout, clip_model):
    """Compute the matrix products of `floor` on zeros."""
    resblocks, width = list(clip_model.transformer.resblocks), clip_model.transformer.width

    def both_ways(rows, *weights):
        for weight in weights:
            into = torch.zeros(rows, weight.shape[1], requires_grad=True)
            out = linear(into, weight.detach(), torch.zeros(len(weight)))
            torch.autograd.grad(out, into, torch.zeros_like(out))

    def others(resblock):
        return resblock.attn.out_proj.weight, resblock.mlp.c_fc.weight, resblock.mlp.c_proj.weight

    for resblock in resblocks[:-1]:
        both_ways(len(layout.rows), resblock.attn.in_proj_weight, *others(resblock))
    query, key_value = resblocks[-1].attn.in_proj_weight.split([width, 2 * width])
    both_ways(len(layout.rows), key_value)
    both_ways(layout.n_classes, query, *others(resblocks[-1]))


def measure(clip_model, n_classes, n_context, repeat, rate, theirs, plain_too):
    names = class_names(n_classes)
    words = " ".join(["X"] * n_context)
    layout = prompt_layout(clip_model, names, words, n_context)
    context = torch.nn.Parameter(initial_context(clip_model, n_context))
    weights = list(clip_model.parameters())

    bounded = prompt_layout(clip_model, names, words, n_context)
    bound_text_memory_(bounded, clip_model, training_memory(clip_model, layout, 1, 0).text // 4)

    def encode(layout, plain):
        with reference(plain):
            return encode_text(clip_model, layout, context)

    forwards = {"fast": lambda: encode(layout, False), "bounded": lambda: encode(bounded, False)}
    forwards["mkl"] = lambda: without_onednn(forwards["fast"])
    if plain_too:
        forwards["plain"] = lambda: encode(layout, True)
    if theirs is not None and plain_too:
        coop = SimpleNamespace(N_CTX=n_context, CTX_INIT="", CSC=False, CLASS_TOKEN_POSITION="end")
        cfg = SimpleNamespace(TRAINER=SimpleNamespace(COOP=coop), INPUT=SimpleNamespace(SIZE=(32, 32)))
        learner = theirs.PromptLearner(cfg, names, clip_model)
        learner.ctx = context
        encoder = theirs.TextEncoder(clip_model)
        forwards["upstream"] = lambda: encoder(learner(), learner.tokenized_prompts)
    results = [forward().detach() for forward in forwards.values()]
    error = max(((r - results[0]).abs().max() / results[0].abs().max()).item() for r in results)
    calls = {name: lambda f=f: f().square().sum().backward() for name, f in forwards.items()}
    timed = side_by_side({"products": lambda: products(layout, clip_model), **calls}, repeat)
    row = {"classes": n_classes, "context": n_context, "rows": len(layout.rows), "largest_difference": error}
    row["floor_s"] = floor(layout, clip_model, rate)
    row["products_s"] = timed.pop("products")[0]
    for name, (median, fastest, slowest) in timed.items():
        row[name] = {"median_s": median, "fastest_s": fastest, "slowest_s": slowest}
        row[name]["kept_bytes"] = saved_for_backward(forwards[name], weights)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B/16", choices=SHAPES)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--context", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--plain-up-to", type=int, default=100, metavar="CLASSES")
    parser.add_argument("--coop", help="path of a CoOp checkout to measure too")
    args = parser.parse_args()
    if args.coop:
        from qprompt.engine import activate

        activate()
    theirs = upstream(args.coop, "coop") if args.coop else None
    clip_model = text_side(args.backbone)
    rates = matrix_rates()
    measured = f"{rates['best'] / 1e9:.0f} GFLOP/s, PyTorch's default {rates['torch'] / 1e9:.0f}"
    print(f"{args.backbone}, {torch.get_num_threads()} thread(s), {measured}; medians of {args.repeat}")
    rows = []
    for n_classes in args.classes:
        for n_context in args.context:
            row = measure(
                clip_model, n_classes, n_context, args.repeat, rates["best"], theirs, n_classes <= args.plain_up_to
            )
            rows.append(row)
            base = row.get("upstream", row.get("plain", row["fast"]))
            about = f"{row['rows']} rows, floor {row['floor_s']:.3f} s, products {row['products_s']:.3f} s"
            print(f"{n_classes} classes, {n_context} context vectors, {about}", flush=True)
            for name in ("upstream", "plain", "mkl", "fast", "bounded"):
                if name in row:
                    r = row[name]
                    print(
                        f"  {name:9} {r['median_s']:8.3f} s ({r['fastest_s']:.3f} to {r['slowest_s']:.3f}) "
                        f"{base['median_s'] / r['median_s']:5.1f}x   saved {r['kept_bytes'] / 2**20:8.1f} MiB "
                        f"{base['kept_bytes'] / r['kept_bytes']:5.1f}x less"
                    )
    save("text_encoding", rows, ("classes", "context"), backbone=args.backbone, rates=rates)


if __name__ == "__main__":
    main()
